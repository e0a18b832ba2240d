"""The `watchdog` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

YEAR_S = 365 * 24 * 3600
Limit = Annotated[float, Field(ge=1, le=YEAR_S)]


@dataclass(kw_only=True, slots=True)
class WatchdogConfig:
    """The `watchdog` section. All limits in seconds; the timeouts of `comm` are raised above them where they are not,
    for a collective that times out first would end the run without saying who was missing."""

    enable: bool = True
    """Whether a run that does not move is ended."""
    stall_after_s: Limit = 180.0
    """Time that one part of a step may take: the batch, forward and backward, the update. In Trinity Large's run there
    was an alert when no step finished in three minutes, says its report."""
    start_after_s: Limit = 1800.0
    """The same for start-up, with the loading of a checkpoint, and for the first step of a process, which compiles."""
    save_after_s: Limit = 1800.0
    """The same for saving a checkpoint, and for validation."""

    @property
    def longest_s(self) -> float:
        return max(self.stall_after_s, self.start_after_s, self.save_after_s)

    @property
    def period_s(self) -> float:
        """How often a rank says that it is there, and looks whether it moves."""
        return min(10.0, self.stall_after_s / 10)
