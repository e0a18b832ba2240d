"""YAML and overrides -> one resolved configuration, by Hydra."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_pipelines.base.command import CONFIGS
from data_pipelines.base.errors import ConfigError

_BY_NAME = re.compile(r"\+{1,2}(data\.mix(?:\.[^.=]+)?|data\.sources)=(\s*\{.*)", re.DOTALL)
"""A value in braces for a setting whose keys are names that people choose: phases and sources."""


def compose(overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration as plain containers. Raises ConfigError where Hydra cannot compose one."""
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            parts = [part for override in overrides for part in _replacing(_let_through(override))]
            config = hydra_compose("config", overrides=parts)
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([_first_line(error)]) from error


def _let_through(override: str) -> str:
    """Adds `++` to a value's override: Hydra stops at the first unknown key, our check names all of them."""
    key, equals, _ = override.partition("=")
    is_group = (CONFIGS / key).is_dir()
    return override if not equals or is_group or not key[:1].isalpha() else f"++{override}"


def _replacing(override: str) -> list[str]:
    """Two overrides where a person gives all weights or all sources at once: Hydra would merge them with those of the
    experiment, and keep names that were not given."""
    found = _BY_NAME.fullmatch(override)
    return [f"++{found[1]}=null", f"++{found[1]}={found[2]}"] if found else [override]


def _first_line(error: Exception) -> str:
    """Hydra's message without its hints on how to search, but with what there is to choose from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Config search path", "provider=", "Set the env", "See "))]
    return "; ".join(kept).replace("\t", "")
