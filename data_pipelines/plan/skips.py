"""Ranges of windows that a run passes over: what is left of a spike of the loss. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Skips: TypeAlias = tuple[tuple[int, int], ...]
"""[first, end) in the order of a plan, ascending, apart from each other."""


def joined(ranges: Iterable[Sequence[int]], num_places: int) -> Skips:
    """Any ranges as Skips. Raises ValueError for what is no range of the plan's windows, and where nothing is left."""
    found: list[tuple[int, int]] = []
    for first, end in sorted((int(first), int(end)) for first, end in ranges):
        if not 0 <= first < end <= num_places:
            raise ValueError(
                f"data.skip: [{first}, {end}] is no range [first, end) of the {num_places:,} windows of this run"
            )
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    if skipped_before(tuple(found), num_places) >= num_places:
        raise ValueError("data.skip passes over every window of this run")
    return tuple(found)


def skipped_before(skips: Skips, place: int) -> int:
    """How many of the first `place` windows of the order are passed over."""
    return sum(min(end, place) - first for first, end in skips if first < place)
