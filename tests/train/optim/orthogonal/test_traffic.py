"""train/optim/orthogonal/traffic.py by hand: what travels, element by element."""

from __future__ import annotations

import pytest

from train.optim.orthogonal.traffic import bytes_received


@pytest.mark.parametrize(
    ("num_shards", "num_replicas", "want"),
    [
        (1, 1, 0),  # it has all
        # 2 ranks of 4 elements. The owner receives 4 float32 and keeps 4; the other receives 4 updates: (16 + 8) / 2
        (2, 1, 12),
        # 2 copies of 8 elements: the replica that owns none receives 8 updates: (0 + 16) / 2
        (1, 2, 8),
        # 2 x 2: the owner receives 16 bytes, its neighbour 8; the 4 updates of each go on to the other replica: 8 and 8
        (2, 2, (16 + 8 + 8 + 8) / 4),
    ],
)
def test_hand_worked_bytes_of_a_matrix_of_8_elements(num_shards: int, num_replicas: int, want: float) -> None:
    got = bytes_received(8, num_shards=num_shards, num_replicas=num_replicas, update_bytes=2)
    assert got == want
