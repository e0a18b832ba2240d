"""Processes that this one has started."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children() -> list[int]:
    """By any of its threads, not theirs in turn; Linux."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found
