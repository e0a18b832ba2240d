"""Sharing windows between sources so that every prefix has each source's exact share, to about a window. Pure.

To share n windows between two sides that get a and n - a, send the first j windows left(j) = round(j*a/n) times left.
This is the line-drawing rule of Bresenham: integers only, never more than half a window from the exact share, and
window j goes left exactly if left(j + 1) > left(j), as number left(j) of that side. A binary tree of such splits,
halved by weight, gives any mix, and a lookup costs O(log sources).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_LOW = 20
"""Bits of a number that are multiplied apart, where the product would not fit into 64."""


class Node(NamedTuple):
    """A split: of `n` windows, `a` go to the left. A leaf has a source and no sides."""

    n: int
    a: int
    sides: tuple[Node, Node] | None
    source: int

    def left(self, j: int) -> int:
        """How many of the first j windows go left: j * a / n rounded to the nearest, in integers."""
        return (j * self.a + self.n // 2) // self.n

    def left_of_each(self, j_N: np.ndarray) -> np.ndarray:
        """`left` of many, uint64 [N]; exact up to 2^41 windows."""
        a, n, half = np.uint64(self.a), np.uint64(self.n), np.uint64(self.n // 2)
        if self.n < 2**32:
            return (j_N * a + half) // n
        assert self.n < 2**41, self.n
        high_N, low_N = j_N >> np.uint64(_LOW), j_N & np.uint64(2**_LOW - 1)
        whole_N, rest_N = np.divmod(high_N * a, n)
        return (whole_N << np.uint64(_LOW)) + ((rest_N << np.uint64(_LOW)) + low_N * a + half) // n


def tree(leaves: list[tuple[int, int]]) -> Node:
    """Split (count, source) leaves into halves of about equal weight, heaviest first, until each stands alone."""
    n = sum(count for count, _ in leaves)
    if len(leaves) == 1:
        return Node(n, n, None, leaves[0][1])
    sides: tuple[list, list] = ([], [])
    for leaf in sorted(leaves, key=lambda leaf: (-leaf[0], leaf[1])):
        min(sides, key=lambda side: sum(count for count, _ in side)).append(leaf)
    left, right = tree(sides[0]), tree(sides[1])
    return Node(n, left.n, (left, right), -1)


def descend(node: Node, j: int) -> tuple[int, int]:
    """The j-th window below `node` -> (source, which window of that source)."""
    while node.sides:
        before = node.left(j)
        goes_left = node.left(j + 1) > before
        node, j = (node.sides[0], before) if goes_left else (node.sides[1], j - before)
    return node.source, j


def descend_each(node: Node, j_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`descend` of many, uint64 [N]: (source int64 [N], which window of that source uint64 [N])."""
    source_N, rank_N = np.empty(len(j_N), np.int64), np.empty(len(j_N), np.uint64)
    waiting = [(node, np.arange(len(j_N)), j_N)]
    while waiting:
        here, places_M, j_M = waiting.pop()
        if not here.sides:
            source_N[places_M], rank_N[places_M] = here.source, j_M
            continue
        before_M = here.left_of_each(j_M)
        is_left_M = here.left_of_each(j_M + np.uint64(1)) > before_M
        left, right = here.sides
        for side, is_on_M, inner_M in ((left, is_left_M, before_M), (right, ~is_left_M, j_M - before_M)):
            if is_on_M.any():
                waiting.append((side, places_M[is_on_M], inner_M[is_on_M]))
    return source_N, rank_N


def counts_before(node: Node, j: int, num_sources: int) -> list[int]:
    """How many of the first j windows below `node` each source gets."""
    taken = [0] * num_sources
    _fill(node, j, taken)
    return taken


def _fill(node: Node, j: int, taken: list[int]) -> None:
    if not node.sides:
        taken[node.source] = j
        return
    _fill(node.sides[0], node.left(j), taken)
    _fill(node.sides[1], j - node.left(j), taken)
