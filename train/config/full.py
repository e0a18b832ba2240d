"""Typed sections -> plain containers again, defaults included: what config.yaml and W&B get, and what is compared.

Token amounts are whole numbers there, whatever the user wrote, so two ways of writing one configuration are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.sections import dump, kind_of, kinds_of, section_types, validate
from train.balance.rules.kinds import BalanceConfig
from train.config.rules.run import DERIVED
from train.config.run import Sections

ONCE_OF_EVERY_RULE = {"sharpness", "momentum"}
"""Settings of the balance section that had no effect with some rules, and are refused there now."""


def full_settings(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of every section by name, in the order of their declaration; `check` reads it back as the same.

    sections: section name -> object, as `validate` returns them. What follows from other sections is left out.
    """
    hints = section_types(Sections)
    settings = {name: _dump(sections[name], hint) for name, hint in hints.items() if name in sections}
    for section, key in (path.split(".") for path in DERIVED):
        settings.get(section, {}).pop(key, None)
    return settings


def read_stored(run_dir: Path) -> dict[str, Any]:
    """The settings that the config.yaml of a run directory holds. Raises ConfigError where it holds none.

    Empty texts are left out: versions until 85d52f1 took them, for "not set".
    """
    path = run_dir / "config.yaml"
    try:
        stored: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"{path}: cannot be read ({error})"]) from error
    if not stored or not isinstance(stored, dict) or not all(isinstance(section, dict) for section in stored.values()):
        raise ConfigError([f"{path}: holds no sections of settings; it is not the file that a run wrote"])
    given = {name: {key: value for key, value in section.items() if value != ""} for name, section in stored.items()}
    return given | ({"balance": _without_idle(given["balance"])} if "balance" in given else {})


def with_mix(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run that has begun, whose `data.mix` says what null means and meant, also with several sources."""
    data = settings.get("data", {})
    return settings | {"data": data | {"mix": data.get("mix") or "proportional"}}


def _without_idle(balance: dict[str, Any]) -> dict[str, Any]:
    """The `balance` section less what its rule never read: older versions stored SMEBU's settings for every rule."""
    rule = kinds_of(BalanceConfig).get(balance.get("kind", ""))
    idle = ONCE_OF_EVERY_RULE - {field.name for field in fields(rule)} if rule else set()
    return {key: value for key, value in balance.items() if key not in idle}


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were stored, perhaps by an older version without its defaults, as this version's full ones.

    Rules across sections are not asked: what was stored has run. Raises ConfigError with each key that this version
    does not know or does not accept.
    """
    sections, problems = validate(settings, section_types(Sections))
    if problems:
        raise ConfigError(problems)
    return full_settings(sections)


def _dump(section: Any, hint: Any) -> dict[str, Any]:
    return kind_of(section, hint) | ({} if section is None else dump(section))
