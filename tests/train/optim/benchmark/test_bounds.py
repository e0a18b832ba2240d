"""train/optim/benchmark/bounds.py by hand."""

from __future__ import annotations

import pytest

from train.optim.benchmark.bounds import Spread, needed_bytes, needed_flops


def test_hand_worked_flops() -> None:
    # 2 x 3: 64 an iteration, five of them (test_ownership.py); copies and shards change nothing
    assert needed_flops([Spread(7, 2, 3, num_shards=2, num_replicas=3)]) == 7 * 320


@pytest.mark.parametrize(
    ("num_shards", "num_replicas", "expected"),
    [
        (1, 1, 0),  # one rank has everything
        # 8 x 3 = 24 elements, 2 bytes each of a result:
        (1, 4, 3 * 24 * 2),  # three ranks lack all of it; the owner lacks nothing
        (4, 1, 3 * 6 * 4 + 3 * 6 * 2),  # the owner lacks 3 of 4 parts in float32; each other rank lacks its part
        (4, 2, 3 * 6 * 4 + 7 * 6 * 2),  # the copies of the gradient are no help; there are 7 others
    ],
)
def test_hand_worked_bytes(num_shards: int, num_replicas: int, expected: int) -> None:
    assert needed_bytes([Spread(1, 8, 3, num_shards, num_replicas)], update_bytes=2) == expected
    assert needed_bytes([Spread(5, 8, 3, num_shards, num_replicas)], update_bytes=2) == 5 * expected
