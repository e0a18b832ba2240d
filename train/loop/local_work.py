"""How long a rank takes for work that is the same on every rank and in which it waits for none: who is slow?

In the rest of a step each rank waits for the others in every layer, so that all take the time of the slowest. The head
and its loss are large matrix products without a collective; the batch is fetched alone, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class LocalWork:
    """Seconds in the functions that it timed: the device's, where that runs behind the host."""

    def __init__(self, device: torch.device):
        self._clock = _CudaClock() if device.type == "cuda" else _HostClock()

    def timed(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        def timed_function(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            start = self._clock.now()
            result = function(*args, **kwargs)
            self._clock.add_since(start)
            return result

        return timed_function

    def pop_seconds(self) -> float:
        """Since the last call. On a GPU, after something that waited for the device."""
        return self._clock.pop_seconds()


class _HostClock:
    def __init__(self) -> None:
        self._seconds = 0.0

    def now(self) -> float:
        return time.perf_counter()

    def add_since(self, start: float) -> None:
        self._seconds += time.perf_counter() - start

    def pop_seconds(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class _CudaClock:
    def __init__(self) -> None:
        self._spans: list[tuple[Any, Any]] = []

    def now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add_since(self, start: Any) -> None:
        self._spans.append((start, self.now()))

    def pop_seconds(self) -> float:
        spans, self._spans = self._spans, []
        return sum(start.elapsed_time(end) for start, end in spans) / 1e3
