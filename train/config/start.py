"""A command line -> a checked run, as fast as it goes: nearly all the time of a start is the import of torch."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from data_pipelines.base.compose import compose

if TYPE_CHECKING:
    from train.config.run import Run


def checked_run(overrides: list[str]) -> Run:
    """The run that the overrides configure. Raises ConfigError with every problem; what cannot be composed is refused
    before torch is imported."""
    settings = compose(overrides)
    was_enabled = gc.isenabled()
    gc.disable()  # an import makes a million objects and no garbage: looking for some is a third of its time
    try:
        from train.config.check import check
    finally:
        if was_enabled:
            gc.enable()
    return check(settings)


def checked_settings(overrides: list[str]) -> dict[str, Any]:
    """Every setting of that run, defaults included. Raises ConfigError as `checked_run` does."""
    return checked_run(overrides).settings
