"""Overrides as people type them, one string each, in Hydra's grammar: read and corrected."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from data_pipelines.base.command import CONFIGS, SEARCH_PATH, quoted
from data_pipelines.base.errors import ConfigError

_BY_NAME = re.compile(r"\+{1,2}(data\.mix(?:\.[^.=]+)?|data\.sources)=(\s*\{.*)", re.DOTALL)
"""A value in braces for a setting whose keys are names that people choose: phases and sources."""


def to_hydra(overrides: list[str]) -> list[str]:
    """What Hydra composes from. Raises ConfigError with every override that cannot be read, or has several values."""
    parsed = parse(overrides)
    swept = [text for text, one in zip(overrides, parsed, strict=True) if one.is_sweep_override()]
    if problems := [_several_values(text) for text in swept]:
        raise ConfigError(problems)
    folders = [CONFIGS, *further_folders(parsed)]
    return [part for override in overrides for part in _replacing(_let_through(override, folders))]


def parse(overrides: list[str]) -> list[Override]:
    """Raises ConfigError with every override that cannot be read, and how to write it."""
    parser = OverridesParser.create()
    parsed: list[Override] = []
    problems: list[str] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            problems.append(_unreadable(text, str(error).splitlines()[0]))
    if problems:
        raise ConfigError(problems)
    return parsed


def further_folders(parsed: list[Override]) -> list[Path]:
    """The folders that are searched besides CONFIGS."""
    paths = [one.value() for one in parsed if one.key_or_group == SEARCH_PATH]
    return [Path(str(path).removeprefix("file://")) for of_one in paths if isinstance(of_one, list) for path in of_one]


def in_shell(key: str, value: str) -> str:
    """The override that gives `key` exactly this text, as it is typed in a shell."""
    return shlex.quote(f"{key}={quoted(value)}")


def _unreadable(override: str, reason: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: expected group=option or section.key=value"
    each = ",".join(quoted(part) for part in value.split(","))
    several = (
        "" if re.search(r"[{(\[]|^[^,]*$", value) else f"quote each of several values, {shlex.quote(f'{key}={each}')}; "
    )
    text = f"if it is a text, quote it: {in_shell(key, value)}"
    return f"{override}: Hydra cannot read that ({reason}); {several}{text}"


def _several_values(override: str) -> str:
    key, _, value = override.partition("=")
    return (
        f"{override}: several values. --multirun (of ./launch/local.sh, python -m train, train.model, "
        f"data_pipelines.prepare) takes one after the other; for a list write "
        f"{shlex.quote(f'{key}=[{value}]')}, for a text {in_shell(key, value)}"
    )


def _let_through(override: str, folders: list[Path]) -> str:
    """Adds `++` to a value's override: Hydra stops at the first unknown key, our check names all of them."""
    key, equals, _ = override.partition("=")
    is_hydras = key.startswith("hydra.") or any((folder / key).is_dir() for folder in folders)
    return override if not equals or is_hydras or not key[:1].isalpha() else f"++{override}"


def _replacing(override: str) -> list[str]:
    """Two overrides where a person gives all weights or all sources at once: Hydra would merge them with those of the
    experiment, and keep names that were not given."""
    found = _BY_NAME.fullmatch(override)
    return [f"++{found[1]}=null", f"++{found[1]}={found[2]}"] if found else [override]
