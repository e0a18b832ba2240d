"""The plan: complete, balanced, within its budget, and the same on every rank."""

from __future__ import annotations

import pytest
import torch

from train.optim.orthogonal.ownership import (
    Matrix,
    Round,
    newton_schulz_flops,
    plan_rounds,
    row_chunk,
    summary,
    translates,
)

UNLIMITED = 10**12


def flops(matrices) -> int:
    return sum(newton_schulz_flops(m.rows, m.cols) for m in matrices)


def owners(rounds: tuple[Round, ...]) -> list[list[Matrix]]:
    """The matrices of each rank of the grid, over all rounds."""
    num_replicas, num_shards = len(rounds[0].owned), len(rounds[0].owned[0])
    return [
        [m for round_ in rounds for m in round_.owned[r][s]] for r in range(num_replicas) for s in range(num_shards)
    ]


def model_like() -> list[Matrix]:
    """61 matrices of five shapes, in the order of layers."""
    shapes = [(48, 24), (8, 24), (24, 48), (96, 24), (24, 24)] * 12 + [(1, 24)]
    return [Matrix(i, 0, rows, cols) for i, (rows, cols) in enumerate(shapes)]


def test_hand_worked_flops():
    # 2 x 3: XX^T 2*2*2*3 = 24, A^2 2*2*2*2 = 16, (..)X 2*2*2*3 = 24: 64 an iteration, five of them
    assert newton_schulz_flops(2, 3) == newton_schulz_flops(3, 2) == 320


def test_hand_worked_plan():
    # Squares of side 4, 3, 3, 2, 1 cost 30 * side^3: 1920, 810, 810, 240, 30. Grid of 2 shards x 1 replica:
    # 4 -> shard 0 (1920); 3, 3 -> shard 1 (1620); 2 -> shard 1 (1860); 1 -> shard 1 (1890).
    small, large, middle, tiny, other = (Matrix(i, 0, n, n) for i, n in enumerate((2, 4, 3, 1, 3)))
    (round_,) = plan_rounds([small, large, middle, tiny, other], num_shards=2, num_replicas=1, max_elements=UNLIMITED)
    assert round_.owned == (((large,), (middle, other, small, tiny)),)


def test_equal_matrices_go_to_replicas_in_turn():
    # 4 equal matrices on 4 shards x 2 replicas: two for each replica, so that its part of the all-gather is no longer
    matrices = [Matrix(i, 0, 4, 4) for i in range(4)]
    (round_,) = plan_rounds(matrices, num_shards=4, num_replicas=2, max_elements=UNLIMITED)
    assert [len(round_.of_replica(r)) for r in range(2)] == [2, 2]
    assert round_.of_replica(0) == [matrices[0], matrices[2]]


@pytest.mark.parametrize("max_elements", [UNLIMITED, 2000, 1])
@pytest.mark.parametrize(("num_shards", "num_replicas"), [(1, 1), (4, 1), (1, 4), (3, 2), (128, 16)])
def test_each_matrix_has_one_owner(num_shards, num_replicas, max_elements):
    rounds = plan_rounds(model_like(), num_shards=num_shards, num_replicas=num_replicas, max_elements=max_elements)
    owned = [m for of_owner in owners(rounds) for m in of_owner]
    assert sorted(owned, key=lambda m: m.param) == model_like()


@pytest.mark.parametrize("max_elements", [UNLIMITED, 2000])
def test_no_rank_works_longer_than_the_mean_and_one_matrix(max_elements):
    rounds = plan_rounds(model_like(), num_shards=3, num_replicas=2, max_elements=max_elements)
    loads = [flops(of_owner) for of_owner in owners(rounds)]
    largest = max(flops([m]) for m in model_like())
    assert max(loads) <= sum(loads) / len(loads) + largest


def test_a_round_keeps_to_its_budget():
    rounds = plan_rounds(model_like(), num_shards=2, num_replicas=2, max_elements=2000)
    held = [sum(len(row_chunk(m.rows, 0, 2)) * m.cols for r in range(2) for m in x.of_replica(r)) for x in rounds]
    assert len(rounds) > 1
    assert max(held) <= 2000


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_rows_are_cut_as_torch_chunk_cuts_them(rows, num_shards):
    chunks = [chunk.tolist() for chunk in torch.arange(rows).chunk(num_shards)]
    chunks += [[]] * (num_shards - len(chunks))
    assert [list(row_chunk(rows, shard, num_shards)) for shard in range(num_shards)] == chunks


def test_who_has_other_work_gets_less():
    # rank 0 has the work of a matrix already, so of three equal ones it gets one and rank 1 two
    flops = newton_schulz_flops(8, 8)
    matrices = [Matrix(0, index, 8, 8) for index in range(3)]
    (round_,) = plan_rounds(matrices, num_shards=1, num_replicas=2, max_elements=UNLIMITED, work=[flops, 0])
    assert [len(round_.of_owner(shard=0, replica=replica)) for replica in range(2)] == [1, 2]


def test_teams_are_kept_even():
    # Two teams of two ranks. One gets the matrix of 5 units; the other both of 2, a rank each, then the 1, as 4 < 5.
    matrices = [Matrix(0, index, 8, 8 * units) for index, units in enumerate((5, 2, 2, 1))]
    (round_,) = plan_rounds(matrices, num_shards=2, num_replicas=2, max_elements=UNLIMITED, teams=[7, 7, 9, 9])
    of_shards = [[len(round_.of_owner(shard=s, replica=r)) for r in range(2)] for s in range(2)]
    assert sum(of_shards[0]) == 1
    assert sorted(of_shards[1]) == [1, 2]


def test_ranks_of_one_grid_have_the_first_of_it_in_common():
    # grids of two ranks that are 4 apart divide eight: 0 4, 1 5, 2 6, 3 7
    assert translates(range(8), [2, 6]) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert translates([0, 1, 2, 3], [3]) == [0, 1, 2, 3]


def test_owners_of_equal_matrices_lie_on_diagonals():
    # 3 shards x 2 replicas: as many in each shard as in each replica, after any number of turns
    (round_,) = plan_rounds(
        [Matrix(0, i, 8, 8) for i in range(3)], num_shards=3, num_replicas=2, max_elements=UNLIMITED
    )
    assert [(s, r) for s, r, _ in round_.each()] == [(0, 0), (2, 0), (1, 1)]


def test_summary_tells_size_and_balance():
    # one matrix on two ranks: the busiest does all of it, twice the mean, and keeps its 4 MiB of float32
    rounds = plan_rounds([Matrix(0, 0, 1024, 1024)], num_shards=1, num_replicas=2, max_elements=UNLIMITED)
    assert summary(rounds) == (
        "1 matrices over 1 shards x 2 replicas, 1 rounds, busiest rank 3.22e+10 flops (2.00 x mean), "
        "largest momentum 4 MiB (mean 2, kept by every replica 4)"
    )
