"""YAML and overrides -> one resolved configuration, by Hydra."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from data_pipelines.base.command import CONFIGS, aligned
from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.overrides import further_folders, parse, to_hydra

NAME = "config"
"""The file of CONFIGS that every configuration starts from."""


def compose(overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration as plain containers. Raises ConfigError where Hydra cannot compose one."""
    parts = to_hydra(overrides)
    with _hydra():
        config = hydra_compose(NAME, overrides=parts)
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def shown(args: argparse.Namespace, checked: Callable[[list[str]], dict[str, Any]]) -> str:
    """What a command with --cfg or --info prints instead of doing its work.

    args: as command.py reads them. checked: the overrides -> what the command would use of their configuration,
    defaults included. Raises ConfigError.
    """
    return info(args.info, args.overrides) if args.info else to_yaml(checked(args.overrides))


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
    return "\n".join(aligned(rows))


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra at CONFIGS; what it cannot do is a ConfigError."""
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            hydra.config_loader = _Loader(hydra.config_loader.get_search_path())
            yield hydra.config_loader
    except MissingMandatoryValue as error:
        there = ", ".join(sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")))
        raise ConfigError(
            [f"run.name: missing, and no experiment gives it; say experiment=NAME ({there}) or run.name=NAME"]
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([_first_line(error)]) from error


class _Loader(ConfigLoaderImpl):
    """Hydra's loader. Where a file gives the weights of a phase, or sources, they are all: Hydra would merge them with
    those of the files before, and keep names that were not given. (overrides.py does so for the command line.)"""

    def _compose_config_from_defaults_list(self, defaults: list[Any], repo: Any) -> DictConfig:
        config = super()._compose_config_from_defaults_list(defaults, repo)
        files = (self._load_single_config(default, repo).config for default in defaults)
        sections = [OmegaConf.to_container(file).get("data") for file in files]  # type: ignore[union-attr]
        for key, value in _replaced([section for section in sections if isinstance(section, dict)]).items():
            config.data[key] = value
        return config


def _replaced(sections: list[dict[str, Any]]) -> dict[str, Any]:
    """The `sources` and the `mix` of the `data` sections of several files, in the order in which they apply."""
    result: dict[str, Any] = {}
    for section in sections:
        given = {key: section[key] for key in ("sources", "mix") if key in section}
        phases = [mix for mix in (result.get("mix"), given.get("mix")) if isinstance(mix, dict)]
        result |= given
        if len(phases) == 2:
            result["mix"] = phases[0] | phases[1]
    return result


def _first_line(error: Exception) -> str:
    """Hydra's message without its hints on how to search, but with what there is to choose from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Config search path", "provider=", "Set the env", "See "))]
    headings = [number for number, line in enumerate(kept) if line.startswith("Available options")]
    split = headings[0] + 1 if headings else len(kept)
    choices = f" {', '.join(kept[split:])}" if headings else ""
    return "; ".join(kept[:split]).replace("\t", "") + choices
