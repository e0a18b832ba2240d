"""What a rank is doing, and since when. Written by the training loop, read by the watchdog's thread."""

from __future__ import annotations

import time

from train.watchdog.config import WatchdogConfig

START = "start-up"
SLOW = ("checkpoint", "validation")
"""Activities with the limit `save_after_s`."""


class Pulse:
    """Cheap enough for every part of every step: three assignments."""

    def __init__(self) -> None:
        self.step = 0
        """The step that is being computed; 0 before the first of this process."""
        self.activity = START
        self.since = time.monotonic()
        self._steps_begun = 0

    def begin_step(self, step: int) -> None:
        self.step = step
        self._steps_begun += 1

    def enter(self, activity: str) -> None:
        self.activity = activity
        self.since = time.monotonic()

    @property
    def is_first_step(self) -> bool:
        """Whether this process has not finished a step yet."""
        return self._steps_begun < 2

    def seconds(self) -> float:
        """In this activity."""
        return time.monotonic() - self.since


def limit_s(config: WatchdogConfig, activity: str, *, is_first_step: bool) -> float:
    """How long an activity may take."""
    if activity in SLOW:
        return config.save_after_s
    return config.start_after_s if is_first_step else config.stall_after_s
