"""Which windows a step trains on: a batch that grows in stages, from window 0 on. Pure.

windows   0 ............... 1953 ......... 3320
batch     24 24 ... 24 | 32 32 32 ........ 32 24      <- the last step takes what is left
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple


class Stage(NamedTuple):
    """A run of equal steps."""

    first_step: int
    """Counted from 1."""
    first_window: int
    """Counted from 0 over the whole run."""
    batch: int
    """Windows in each step."""


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """All steps of a run. The first stage begins with step 1 and window 0."""

    stages: tuple[Stage, ...]
    num_windows: int
    """Windows that are trained."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.step_of(self.num_windows - 1)

    def windows(self, step: int) -> range:
        """The windows of `step`. Raises ValueError where the run has no such step."""
        if not 1 <= step <= self.num_steps:
            raise ValueError(f"step {step} is outside of 1..{self.num_steps}")
        place = bisect_right(self.stages, step, key=lambda stage: stage.first_step) - 1
        stage = self.stages[place]
        first = stage.first_window + (step - stage.first_step) * stage.batch
        following = self.stages[place + 1 :]
        end = following[0].first_window if following else self.num_windows
        return range(first, min(first + stage.batch, end))

    def step_of(self, window: int) -> int:
        """Number of the step that trains on `window`."""
        stage = self.stages[bisect_right(self.stages, window, key=lambda stage: stage.first_window) - 1]
        return stage.first_step + (window - stage.first_window) // stage.batch
