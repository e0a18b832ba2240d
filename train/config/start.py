"""A command line -> a checked run, as fast as it goes: nearly all the time of a start is the import of torch."""

from __future__ import annotations

import argparse
import gc
from typing import TYPE_CHECKING

from data_pipelines.base.rank import is_rank_0
from data_pipelines.settings.compose import compose, shown

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


def print_settings(args: argparse.Namespace) -> int:
    """What --cfg or --info asks for, of a command that takes the settings of a run; returns the exit code.

    Once, however many ranks there are. Raises ConfigError as `checked_run` does.
    """
    text = shown(args, lambda overrides: checked_run(overrides).settings)
    if is_rank_0():
        print(text, flush=True)
    return 0
