"""The `schedule` section."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from train.schedule.amounts import Tokens

MAX_SCALE = 1000
MAX_SEQUENCES = 2**31


@dataclass(kw_only=True, slots=True)
class Phase:
    name: str
    """Name of the phase; `data.mix` refers to it."""
    tokens: Tokens
    """Token budget before `token_scale`."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens}: a phase needs a token budget above 0; leave the phase out")


@dataclass(kw_only=True, slots=True)
class BatchStage:
    from_tokens: Tokens
    """Tokens seen (before `token_scale`) from which on steps have this size; the first stage starts at 0."""
    sequences: int
    """Sequences in a global batch."""

    def __post_init__(self) -> None:
        if not 1 <= self.sequences <= MAX_SEQUENCES:
            raise ValueError(f"sequences must be positive, and at most {MAX_SEQUENCES:,}, got {self.sequences}")


@dataclass(kw_only=True, slots=True)
class Decay:
    from_tokens: Tokens
    """Tokens seen (before `token_scale`) at which the decay starts; it ends with the run."""
    shape: Literal["linear", "cosine"] = "linear"
    """Shape of the way down."""
    floor: float = 0.0
    """Share of the peak rate at the end of the run, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:  # nor NaN
            raise ValueError(f"floor must lie in 0..1, got {self.floor}")


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    phases: list[Phase]
    """The curriculum, in order."""
    batch: list[BatchStage]
    """The batch ramp, in order."""
    warmup_tokens: Tokens = 0
    """Length of the linear warmup from 0, before `token_scale`."""
    decay: Decay | None = None
    """The way down; null keeps the peak rate to the end."""
    token_scale: float = 1.0
    """Multiplies every token amount above: 5.0e-8 runs a 17T recipe in 850k tokens."""

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("phases: a schedule needs at least one phase")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases: names must differ, got {names}")
        if not self.batch or self.batch[0].from_tokens != 0:
            raise ValueError("batch: the first stage must start at from_tokens 0")
        if any(later.from_tokens <= earlier.from_tokens for earlier, later in pairwise(self.batch)):
            raise ValueError(f"batch: from_tokens must grow, got {[stage.from_tokens for stage in self.batch]}")
        if not 0 < self.token_scale <= MAX_SCALE:  # nor NaN
            raise ValueError(f"token_scale must be positive, and at most {MAX_SCALE:,}, got {self.token_scale}")
