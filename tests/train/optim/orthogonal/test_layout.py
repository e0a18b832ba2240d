"""The exchange buffers, worked by hand.

Two shards, one replica. Rank 0 owns P, rank 1 owns Q:

    P = 3 x 1: p0 | p1 | p2        rows 0, 1 in shard 0, row 2 in shard 1
    Q = 1 x 2: q0 q1               row 0 in shard 0, none in shard 1
"""

from __future__ import annotations

import torch

from train.optim.orthogonal import layout
from train.optim.orthogonal.ownership import Matrix, Round

P, Q = Matrix(0, 0, 3, 1), Matrix(1, 0, 1, 2)
ROUND = Round(owned=(((P,), (Q,)),))


def test_shard_side_counts():
    # shard 0 sends p0 p1 to rank 0 and q0 q1 to rank 1; shard 1 sends p2 to rank 0 and nothing to rank 1
    assert layout.counts_by_owner(ROUND, replica=0, shard=0) == [2, 2]
    assert layout.counts_by_owner(ROUND, replica=0, shard=1) == [1, 0]


def test_owner_side_counts():
    assert layout.counts_by_shard([P], num_shards=2) == [2, 1]
    assert layout.counts_by_shard([Q], num_shards=2) == [2, 0]
    assert layout.counts_by_shard([], num_shards=2) == [0, 0]


def test_what_a_rank_sends_to_another_is_what_that_expects():
    for shard in range(2):
        for owner in range(2):
            sent = layout.counts_by_owner(ROUND, replica=0, shard=shard)[owner]
            assert sent == layout.counts_by_shard(ROUND.owned[0][owner], num_shards=2)[shard]


def test_the_gathered_part_is_as_long_as_the_longest_replica():
    # replica 0 owns P (2 elements of shard 0), replica 1 owns P and Q (4)
    two = Round(owned=(((P,), ()), ((P,), (Q,))))
    assert layout.padded_count(two, shard=0) == 4


def test_shard_views_ignore_the_padding():
    buffer = torch.tensor([10.0, 11.0, 20.0, 21.0, -1.0])
    p, q = layout.shard_views(buffer, [P, Q], shard=0, num_shards=2)
    assert p.tolist() == [[10.0], [11.0]]
    assert q.tolist() == [[20.0, 21.0]]


def test_a_shard_without_rows_has_an_empty_view():
    (q,) = layout.shard_views(torch.empty(0), [Q], shard=1, num_shards=2)
    assert q.shape == (0, 2)


def test_owner_views_and_batch_views_pair_up():
    # An owner of P and of R, also 3 x 1, receives p0 p1 r0 r1 from shard 0, then p2 r2 from shard 1.
    matrices = [P, Matrix(2, 0, 3, 1)]
    buffer = torch.tensor([10.0, 11.0, 30.0, 31.0, 12.0, 32.0])
    batches = layout.empty_batches(buffer, matrices)
    targets = layout.batch_views(batches, matrices, num_shards=2)
    for target, source in zip(targets, layout.owner_views(buffer, matrices, num_shards=2), strict=True):
        target.copy_(source)
    assert batches[3, 1].squeeze(-1).tolist() == [[10.0, 11.0, 12.0], [30.0, 31.0, 32.0]]
