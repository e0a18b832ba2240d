"""Muon and the clipping of gradients on 4 ranks, in every layout of the engine, against one rank."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from tests.train.optim.rank_checks import LR, WORLD_SIZE, run_checks
from tests.train.optim.small_model import CASES, NUM_MATRICES
from train.process.warm import warm_up


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("ranks")
    warm_up()
    start_processes(run_checks, args=(str(folder),), nprocs=WORLD_SIZE, start_method="forkserver")
    return torch.load(folder / "outcomes.pt", weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_4_ranks_make_the_weights_of_1_rank(outcomes, case):
    # float32 sums of at most 12 terms, in another order where batches differ; a lost row would be off by about LR
    assert outcomes[case].error < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_each_matrix_is_orthogonalized_once_in_the_world(outcomes, case):
    assert outcomes[case].num_orthogonalized == NUM_MATRICES


@pytest.mark.parametrize("case", CASES)
def test_the_momentum_of_each_matrix_is_kept_once_in_the_world(outcomes, case):
    assert outcomes[case].num_momenta == NUM_MATRICES


@pytest.mark.parametrize("case", CASES)
def test_every_rank_knows_the_owners(outcomes, case):
    assert outcomes[case].are_owners_known


@pytest.mark.parametrize("case", CASES)
def test_every_rank_sees_the_same_health_as_one_rank_alone(outcomes, case):
    first, last = outcomes[case].health
    assert first == last
    for figure, of_kind in outcomes["health of 1 rank"].items():
        assert first[figure] == pytest.approx(of_kind, rel=1e-4)  # a difference of float32 weights, by a rate of 0.02


@pytest.mark.parametrize("case", CASES)
def test_collectives_of_a_step_are_few_and_fixed(outcomes, case):
    assert outcomes[case].num_collectives == CASES[case].collectives


@pytest.mark.parametrize("case", CASES)
def test_every_rank_finds_the_norm_of_all_gradients(outcomes, case):
    clipping = outcomes[f"clip {case}"]
    smallest, largest = clipping.norms
    assert smallest == largest
    assert largest == pytest.approx(clipping.expected, rel=1e-6)  # float32 sums


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.replicas > 1])
def test_counting_replicas_twice_would_be_seen(outcomes, case):
    clipping = outcomes[f"clip {case}"]
    assert clipping.norm_of_the_world == pytest.approx(clipping.expected * CASES[case].replicas ** 0.5, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_clipping_scales_every_gradient_alike(outcomes, case):
    # gradients are below 4, a float32 there is 2e-7 from the next; and the norm is 1e-6 larger in the division
    assert outcomes[f"clip {case}"].error < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_gradients_below_the_limit_stay_bitwise(outcomes, case):
    assert outcomes[f"clip {case}"].change == 0.0


def test_4_ranks_agree_with_1_rank_in_bfloat16(outcomes):
    # Five iterations in bfloat16 amplify its rounding of 2^-8 to a few percent of an entry, and entries are below 1.
    assert outcomes["bfloat16"] < 0.05 * LR


def test_making_the_state_leaves_the_weights_bitwise_equal(outcomes):
    assert outcomes["first state_dict"] == 0.0


def test_a_checkpoint_of_2x2_goes_on_as_1x4(outcomes):
    assert outcomes["other mesh"] < 1e-6


def test_split_columns_are_refused_by_name(outcomes):
    assert "not columns" in outcomes["columns"]
    assert "got wo (4, 8)" in outcomes["columns"]
