"""Muon on 4 ranks, in every layout of the engine, against Muon on one."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from tests.train.optim.rank_checks import LR, WORLD_SIZE, run_checks
from tests.train.optim.small_model import CASES, NUM_MATRICES


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(run_checks, args=(str(folder),), nprocs=WORLD_SIZE, start_method="spawn")
    return torch.load(folder / "outcomes.pt", weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_4_ranks_make_the_weights_of_1_rank(outcomes, case):
    # float32 sums of at most 12 terms, in another order where batches differ; a lost row would be off by about LR
    assert outcomes[case].error < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_each_matrix_is_orthogonalized_once_in_the_world(outcomes, case):
    assert outcomes[case].num_orthogonalized == NUM_MATRICES


@pytest.mark.parametrize("case", CASES)
def test_collectives_of_a_step_are_few_and_fixed(outcomes, case):
    assert outcomes[case].num_collectives == CASES[case].collectives


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
