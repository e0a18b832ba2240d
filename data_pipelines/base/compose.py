"""YAML and overrides -> one resolved configuration, by Hydra."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_pipelines.base.command import CONFIGS
from data_pipelines.base.errors import ConfigError
from data_pipelines.base.overrides import further_folders, parse, to_hydra

NAME = "config"
"""The file of CONFIGS that every configuration starts from."""


def compose(overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration as plain containers. Raises ConfigError where Hydra cannot compose one."""
    parts = to_hydra(overrides)
    with _hydra():
        config = hydra_compose(NAME, overrides=parts)
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def shown(args: argparse.Namespace, overrides: list[str], checked: Callable[[list[str]], dict[str, Any]]) -> str:
    """What a command with --cfg or --info prints instead of doing its work.

    args: as command.py reads them. checked: the overrides -> what the command would use of their configuration,
    defaults included. Raises ConfigError.
    """
    return info(args.info, overrides) if args.info else to_yaml(checked(overrides))


def to_yaml(settings: dict[str, Any]) -> str:
    """What --cfg job prints: it can be read back, and holds values where there were references."""
    return OmegaConf.to_yaml(OmegaConf.create(settings)).rstrip("\n")


def info(topic: str, overrides: list[str]) -> str:
    """What --info prints. topic: "defaults", the files in the order in which they apply, or "searchpath".

    Raises ConfigError as `compose` does.
    """
    parts = to_hydra(overrides)
    with _hydra() as loader:
        if topic == "searchpath":
            own = [str(folder) for folder in further_folders(parse(overrides))]
            rows = [("searched in this order",), (str(CONFIGS),), *((folder,) for folder in own)]
        else:
            found = loader.compute_defaults_list(NAME, parts, run_mode=RunMode.RUN).defaults
            files = [(str(one.config_path), one.package or "", one.parent or "") for one in found]
            rows = [("file", "into", "named by"), *(row for row in files if not row[0].startswith("hydra"))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra at CONFIGS; what it cannot do is a ConfigError."""
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([_first_line(error)]) from error


def _first_line(error: Exception) -> str:
    """Hydra's message without its hints on how to search, but with what there is to choose from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Config search path", "provider=", "Set the env", "See "))]
    return "; ".join(kept).replace("\t", "")
