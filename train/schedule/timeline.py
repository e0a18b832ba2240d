"""Tokens <-> steps: phases, batch ramp and learning rate on one axis. Pure.

Time is counted in windows of ``seq_len`` target tokens, numbered from 0 over the whole run. A step takes the next
``batch`` windows; everything else (its phase, its learning rate, where the run ends) follows from that number alone:

    windows   0 ............... 1953 ......... 2734 ....... 3320
    phases    | general          | high_quality | stem       |
    batch     24 24 ... 24 | 32 32 32 ...............  32 24      <- the last step takes what is left
    rate      /----------------- \\__________________________
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

from data_pipelines.plan.ramp import Ramp, Stage
from data_pipelines.plan.skips import joined, skipped_before
from train.schedule.config import ScheduleConfig


def split_batch(sequences: int, *, num_ranks: int, at_most: int) -> tuple[int, int]:
    """(accumulation steps, sequences a rank takes in each), the fewest steps with at most `at_most` sequences a rank.

    Raises ValueError where the ranks do not divide the batch.
    """
    if sequences % num_ranks:
        raise ValueError(f"{num_ranks} data-parallel ranks do not divide a batch of {sequences} sequences")
    rows = sequences // num_ranks
    return next(
        (steps, rows // steps) for steps in range(1, rows + 1) if rows % steps == 0 and rows // steps <= at_most
    )


class Step(NamedTuple):
    """What one optimizer step trains on, and how fast."""

    number: int
    first_window: int
    num_windows: int
    phase: str
    lr_factor: float


@dataclass(frozen=True)
class Timeline:
    """The whole run, laid out. Raises ValueError where phases are shorter than a window or the run than a step."""

    schedule: ScheduleConfig
    seq_len: int
    """Target tokens in a window."""
    skips: Sequence[Sequence[int]] = ()
    """Windows [first, end) of the budgets that are passed over: data.skip."""
    phase_windows: tuple[int, ...] = field(init=False)
    """Windows of each phase: budgets rounded so that every edge is exact to one window."""
    num_steps: int = field(init=False)
    num_windows: int = field(init=False)
    """Windows that are trained: the budget less a remainder smaller than `quantum`."""
    ramp: Ramp = field(init=False, repr=False)
    """Which windows each step trains on."""

    def __post_init__(self) -> None:
        edges = [0, *(self._to_windows(total) for total in accumulate(p.tokens for p in self.schedule.phases))]
        phase_windows = tuple(end - start for start, end in pairwise(edges))
        if min(phase_windows) < 1:
            raise ValueError(f"every phase needs at least one window of {self.seq_len} tokens, got {phase_windows}")
        object.__setattr__(self, "phase_windows", phase_windows)
        num_windows = edges[-1] - self._skipped_before(edges[-1])
        num_windows -= num_windows % self.quantum
        if num_windows < 1:
            raise ValueError(
                f"{edges[-1]} windows do not fill one step of {self.schedule.batch[0].sequences} sequences"
            )
        object.__setattr__(self, "num_windows", num_windows)
        ramp = Ramp(stages=tuple(self._lay_stages(num_windows)), num_windows=num_windows)
        object.__setattr__(self, "ramp", ramp)
        object.__setattr__(self, "num_steps", ramp.num_steps)

    @property
    def quantum(self) -> int:
        """Every step is a multiple of this many windows, so any mesh that divides the batches divides the last step."""
        return math.gcd(*(stage.sequences for stage in self.schedule.batch))

    @property
    def phase_edges(self) -> tuple[int, ...]:
        """First window after each phase."""
        return tuple(edge - self._skipped_before(edge) for edge in accumulate(self.phase_windows))

    @property
    def phase_end_steps(self) -> dict[int, str]:
        """The step that finishes each phase -> the phase's name."""
        edges = [min(edge, self.num_windows) for edge in self.phase_edges]
        return {self.step_of(edge - 1): phase.name for edge, phase in zip(edges, self.schedule.phases, strict=True)}

    def _skipped_before(self, edge: int) -> int:
        """Windows of the first `edge` of the budgets that are passed over."""
        return skipped_before(joined(self.skips, sum(self.phase_windows)), edge)

    @property
    def ramp_steps(self) -> tuple[int, ...]:
        """First step of each batch size."""
        return tuple(stage.first_step for stage in self.ramp.stages)

    def step(self, number: int) -> Step:
        """Step `number`, counted from 1."""
        windows = self.ramp.windows(number)
        middle = windows.start + len(windows) / 2
        return Step(number, windows.start, len(windows), self.phase_of(windows.start), self.lr_factor(middle))

    def tokens_after(self, number: int) -> int:
        """Seen when step `number` is done; 0 before the first."""
        return self.ramp.windows(number).stop * self.seq_len if number else 0

    def step_of(self, window: int) -> int:
        """Number of the step that trains on global window `window`."""
        return self.ramp.step_of(window)

    def phase_of(self, window: int) -> str:
        """Name of the phase that global window `window` belongs to."""
        return self.schedule.phases[bisect_right(self.phase_edges, window)].name

    def lr_factor(self, window: float) -> float:
        """Share of the peak rate at a point of the window axis: warmup - stable - decay.

        A step takes the value at its middle, so neither its first nor its last step has rate 0.
        """
        rising = window / warmup if (warmup := self._scaled(self.schedule.warmup_tokens)) > 0 else 1.0
        return float(min(1.0, rising)) * self._decay_factor(window)

    def _decay_factor(self, window: float) -> float:
        decay = self.schedule.decay
        if decay is None or window <= (start := self._scaled(decay.from_tokens)):
            return 1.0
        progress = float((window - start) / (self.num_windows - start))
        falling = 1 - progress if decay.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return decay.floor + (1 - decay.floor) * falling

    def _scaled(self, tokens: int) -> Fraction:
        """Tokens of the recipe -> windows of this run, exact (a float would move edges at 17T)."""
        return tokens * Fraction(str(self.schedule.token_scale)) / self.seq_len

    def _to_windows(self, tokens: int) -> int:
        return math.floor(self._scaled(tokens))

    def _lay_stages(self, num_windows: int) -> list[Stage]:
        """A stage starts with the first step that begins at or after its `from_tokens`."""
        stages = [Stage(1, 0, self.schedule.batch[0].sequences)]
        for later in self.schedule.batch[1:]:
            current = stages[-1]
            num_steps = max(0, math.ceil((self._scaled(later.from_tokens) - current.first_window) / current.batch))
            first_window = current.first_window + num_steps * current.batch
            if first_window >= num_windows:
                break
            stages.append(Stage(current.first_step + num_steps, first_window, later.sequences))
        return stages
