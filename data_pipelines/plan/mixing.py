"""Which source each window of a phase takes: exact to a window at every edge of a block. Pure.

The windows of a phase lie in blocks, and are shuffled inside of each. What matters is therefore how many of a block
each source gets, and that is closed form: of the first j windows of n, the sources 0 .. m together get
round(j * A_m / n), where A_m is what they get of all n. Source m has the difference of two such numbers, so at every
edge it is less than one window off its exact share, whatever the number of sources, and all together are exact.

That never takes a window back where a source has at least one in a block on average. Those that are rarer share one
place in the row, and divide it by a tree of two-way splits (split.py), which works at any rate and is up to half a
window less exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from data_pipelines.plan.split import Node, counts_before, descend, descend_each, tree


class PhaseMix:
    """counts: windows of each source in the phase; block: windows in a block."""

    def __init__(self, counts: Sequence[int], block: int):
        self.num_windows = sum(counts)
        self._num_sources = len(counts)
        order = sorted((k for k, count in enumerate(counts) if count), key=lambda k: (counts[k], k))
        rare: list[int] = []
        while order and (
            counts[order[0]] * block < self.num_windows
            or (rare and sum(counts[k] for k in rare) * block < self.num_windows)
        ):
            rare.append(order.pop(0))
        self._members: list[int | Node] = sorted(order)
        totals = [counts[k] for k in sorted(order)]
        if rare:
            self._members.append(tree([(counts[k], k) for k in rare]))
            totals.append(sum(counts[k] for k in rare))
        self._until = [0, *accumulate(totals)]
        self._edge = lru_cache(64)(self._edge_of)

    def taken(self, j: int) -> list[int]:
        """Windows of each source among the first j, which end at an edge."""
        row, taken = self._edge(j), [0] * self._num_sources
        for m, member in enumerate(self._members):
            count = row[m + 1] - row[m]
            if isinstance(member, int):
                taken[member] = count
            else:
                inside = counts_before(member, count, self._num_sources)
                taken = [one + other for one, other in zip(taken, inside, strict=True)]
        return taken

    def pick(self, first: int, end: int, offset: int) -> tuple[int, int]:
        """Window `offset` of the block [first, end), before it is shuffled -> (source, which window of that source)."""
        before, row = self._edge(first), self._row(first, end)
        m = bisect_right(row, offset) - 1
        member, rank = self._members[m], before[m + 1] - before[m] + offset - row[m]
        return (member, rank) if isinstance(member, int) else descend(member, rank)

    def pick_each(self, first: int, end: int, offset_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`pick` of many, uint64 [N]: (source int64 [N], which window of that source uint64 [N])."""
        before, row = np.array(self._edge(first), np.uint64), np.array(self._row(first, end), np.uint64)
        m_N = np.searchsorted(row, offset_N, side="right") - 1
        rank_N = (before[1:] - before[:-1])[m_N] + offset_N - row[m_N]
        *alone, last = self._members
        if isinstance(last, int):
            return np.array(self._members)[m_N], rank_N
        source_N = np.array([*alone, -1])[m_N]
        is_rare_N = m_N == len(alone)
        source_N[is_rare_N], rank_N[is_rare_N] = descend_each(last, rank_N[is_rare_N])
        return source_N, rank_N

    def _edge_of(self, j: int) -> list[int]:
        """Windows of the members before each, and of all, among the first j: rounded to the nearest, in integers."""
        n = self.num_windows
        return [(2 * j * until + n) // (2 * n) for until in self._until]

    def _row(self, first: int, end: int) -> list[int]:
        """Where the windows of each member begin in a block, and where the block ends."""
        return [after - before for before, after in zip(self._edge(first), self._edge(end), strict=True)]


class TreeMix:
    """The whole phase by one tree of splits: what plans of algorithm 1 go on with."""

    def __init__(self, counts: Sequence[int], block: int):
        self._tree = tree([(count, k) for k, count in enumerate(counts) if count])
        self._num_sources = len(counts)

    def taken(self, j: int) -> list[int]:
        """As PhaseMix."""
        return counts_before(self._tree, j, self._num_sources)

    def pick(self, first: int, end: int, offset: int) -> tuple[int, int]:
        """As PhaseMix."""
        return descend(self._tree, first + offset)

    def pick_each(self, first: int, end: int, offset_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As PhaseMix."""
        return descend_each(self._tree, offset_N + np.uint64(first))
