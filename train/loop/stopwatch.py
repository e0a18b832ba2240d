"""Where the time of a step goes, by the host's clock.

On a GPU the host runs ahead of the device: a part's figure is then the time until its work was queued, or until the
next figure was asked back from the device, whichever came later. The total is exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Laps with named parts: `with stopwatch("data"): ...`, then `lap()`."""

    def __init__(self, on_part: Callable[[str], None] = lambda part: None) -> None:
        """on_part: told of each part as it begins."""
        self._on_part = on_part
        self._lap_start = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._on_part(part)
        start = time.perf_counter()
        yield
        self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - start

    def seconds(self, part: str) -> float:
        """Of a part since the last lap."""
        return self._parts.get(part, 0.0)

    def lap(self) -> dict[str, float]:
        """Seconds of each part since the last lap, and of the lap as `total`. Starts the next one."""
        now = time.perf_counter()
        seconds = {**self._parts, "total": now - self._lap_start}
        self._lap_start, self._parts = now, {}
        return seconds
