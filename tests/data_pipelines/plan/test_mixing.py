"""data_pipelines/plan/mixing.py: shares of sources at the edges of blocks."""

from __future__ import annotations

import random

import numpy as np
import pytest

from data_pipelines.plan.mixing import PhaseMix


def picks(mix: PhaseMix, first: int, end: int) -> list[tuple[int, int]]:
    return [mix.pick(first, end, offset) for offset in range(end - first)]


def test_two_blocks_worked_by_hand():
    """5 of source 0, 3 of source 1, blocks of 4: of the first 4, round(4 * 5 / 8) = round(2.5) = 3 are source 0's."""
    mix = PhaseMix([5, 3], block=4)
    assert picks(mix, 0, 4) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert picks(mix, 4, 8) == [(0, 3), (0, 4), (1, 1), (1, 2)]
    assert mix.taken(4) == [3, 1]


@pytest.mark.parametrize("seed", range(20))
def test_at_every_edge_each_source_is_less_than_a_window_off(seed: int):
    """Any sources of at least a window a block; windows come in order, none twice, none left out."""
    rng = random.Random(seed)
    block = rng.choice([8, 24, 100])
    counts = [rng.randrange(200 // 2, 2000) for _ in range(rng.randrange(1, 7))]
    n = sum(counts)
    mix, seen = PhaseMix(counts, block), [0] * len(counts)
    for first in range(0, n, block):
        assert all(abs(taken - first * count / n) <= 1 for taken, count in zip(seen, counts, strict=True))
        assert mix.taken(first) == seen
        found = picks(mix, first, min(first + block, n))
        for k, rank in found:
            assert rank == seen[k]
            seen[k] += 1
        source_N, rank_N = mix.pick_each(first, min(first + block, n), np.arange(len(found), dtype=np.uint64))
        assert list(zip(source_N.tolist(), rank_N.tolist(), strict=True)) == found
    assert seen == counts


def test_sources_rarer_than_a_window_a_block_share_a_place():
    """1 and 2 of 1,000 windows in blocks of 24: exact in all, and never more than 1.5 off."""
    counts = [600, 1, 397, 2]
    mix, seen = PhaseMix(counts, 24), [0, 0, 0, 0]
    for first in range(0, 1000, 24):
        assert all(abs(taken - first * count / 1000) <= 1.5 for taken, count in zip(seen, counts, strict=True))
        for k, rank in picks(mix, first, min(first + 24, 1000)):
            assert rank == seen[k]
            seen[k] += 1
    assert seen == counts


def test_a_block_of_one_window_is_the_tree_of_splits():
    counts = [3, 1]
    mix = PhaseMix(counts, 1)
    assert [mix.pick(j, j + 1, 0)[0] for j in range(4)] == [0, 0, 1, 0]
