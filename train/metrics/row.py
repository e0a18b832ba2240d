"""One row of metrics.jsonl."""

from __future__ import annotations

import math
from typing import Any, Protocol


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that does not exist here (MFU on a CPU) is null."""
    return value if math.isfinite(value) else None


Row = dict[str, Any]
"""One object of metrics.jsonl; its keys are listed in the README."""


class Sink(Protocol):
    """Takes one row a step."""

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...
