"""train/loop/totals.py against a step of two microbatches that is worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.afmoe.tally import Tallies
from train.loop.totals import Microbatches, Totals, join_slowest, split_slowest, stack, total
from train.loss.sums import LossSums


def float64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


MICROBATCHES = Microbatches(
    cross_entropy_M=float64(6, 3),
    z_M=float64(8, 4),
    lse_M=float64(4, 2),
    correct_M=float64(1, 4),
    max_logit_M=float64(3, 5),
    labelled_M=float64(2, 6),
)
TALLIES = Tallies(
    counts_LE=torch.tensor([[5, 3]]),
    balance_loss_L=torch.tensor([2.4]),
    router_L3=torch.tensor([[16.0, 80.0, 6.0]]),
    max_logit_L=torch.tensor([4.0]),
)


def step(microbatches: Microbatches = MICROBATCHES, *, wants_stop: bool = False) -> Totals:
    return total(
        microbatches,
        TALLIES,
        digest=2**64 - 1,
        tokens=np.array([[48, 16], [0, 0]]),
        num_sequences=2,
        local_seconds=0.25,
        wants_stop=wants_stop,
        group=None,
    )


def test_means_are_over_tokens_not_over_microbatches() -> None:
    totals = step()
    assert totals.loss == 9 / 8  # the means of the two are 3 and 0.5
    assert totals.accuracy == 5 / 8
    assert totals.mean_z == 12 / 8
    assert totals.mean_lse == 6 / 8
    assert totals.max_logit == 5


def test_heterogeneity_is_over_microbatches() -> None:
    assert step().batch_het == 3 - (3 + 0.5) / 2


def test_the_balance_loss_of_a_layer_is_the_mean_over_sequences() -> None:
    assert step().balance_loss_L.tolist() == pytest.approx([1.2])


def test_what_the_layers_counted_comes_through() -> None:
    totals = step()
    assert totals.routing.counts_LE.tolist() == [[5, 3]]
    assert totals.routing.counts_LE.dtype == torch.int64
    assert totals.routing.router_L3.tolist() == [[16.0, 80.0, 6.0]]
    assert totals.routing.max_logit_L.tolist() == [4.0]
    assert totals.digest == "f" * 16
    assert totals.tokens == [[48, 16], [0, 0]]


def test_a_step_is_the_last_where_a_rank_was_asked_to_stop() -> None:
    assert step(wants_stop=True).stop
    assert not step().stop


def test_a_microbatch_without_a_label_is_no_nan() -> None:
    empty = Microbatches(*map(float64, (0, 0, 0, 0, -math.inf, 0)))
    microbatches = Microbatches(*(torch.cat(pair) for pair in zip(MICROBATCHES, empty, strict=True)))
    assert step(microbatches).batch_het == 3 - (3 + 0.5 + 0) / 3


def test_what_a_loss_does_not_measure_stays_unknown() -> None:
    unknown = float64(math.nan, math.nan)
    totals = step(MICROBATCHES._replace(lse_M=unknown, max_logit_M=unknown))
    assert math.isnan(totals.mean_lse)
    assert math.isnan(totals.max_logit)
    assert totals.loss == 9 / 8


def test_figures_of_microbatches_are_stacked_by_name() -> None:
    names = LossSums._fields
    first, second = (LossSums(*(torch.tensor(100.0 * m + place) for place in range(len(names)))) for m in (1, 2))
    stacked = stack([first, second], torch.tensor([7, 8]))
    for name in names[1:]:  # all but the total
        values_M = getattr(stacked, f"{name}_M")
        assert values_M.tolist() == [100 + names.index(name), 200 + names.index(name)]
        assert values_M.dtype == torch.float64
    assert stacked.labelled_M.tolist() == [7.0, 8.0]


def test_of_one_rank_that_one_is_the_slowest_and_not_slower_than_the_mean() -> None:
    assert (step().slowest_rank, step().slowest_excess) == (0, 0.0)


def test_the_largest_number_of_all_ranks_is_that_of_the_slowest() -> None:
    seconds = [0.25, 0.375, 0.25, 0.374]
    assert split_slowest(max(join_slowest(took, rank) for rank, took in enumerate(seconds))) == (0.375, 1)


@pytest.mark.parametrize("rank", [0, 2047, 2**21 - 1])
@pytest.mark.parametrize("seconds", [0.0, 1e-6, 4294.967295])
def test_time_and_rank_come_through_a_float64(seconds: float, rank: int) -> None:
    assert split_slowest(join_slowest(seconds, rank)) == (seconds, rank)


def test_more_than_an_hour_is_an_hour() -> None:
    assert split_slowest(join_slowest(1e9, 5)) == ((2**32 - 1) / 1e6, 5)
