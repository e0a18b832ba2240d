"""train/loop/totals.py against a step of two microbatches that is worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from train.afmoe.tally import Tallies
from train.loop.totals import total

# cross-entropy, z, logsumexp, correct, largest logit, labelled tokens of each microbatch
FIGURES_MS = torch.tensor([[6.0, 8.0, 4.0, 1.0, 3.0, 2.0], [3.0, 4.0, 2.0, 4.0, 5.0, 6.0]], dtype=torch.float64)
TALLIES = Tallies(
    counts_LE=torch.tensor([[5, 3]]),
    balance_loss_L=torch.tensor([2.4]),
    router_L3=torch.tensor([[16.0, 80.0, 6.0]]),
    max_logit_L=torch.tensor([4.0]),
)


def step(figures_MS: torch.Tensor = FIGURES_MS):  # type: ignore[no-untyped-def]
    return total(figures_MS, TALLIES, digest=2**64 - 1, num_sequences=2, group=None)


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
    assert totals.counts_LE.tolist() == [[5, 3]]
    assert totals.counts_LE.dtype == torch.int64
    assert totals.router_L3.tolist() == [[16.0, 80.0, 6.0]]
    assert totals.max_router_logit_L.tolist() == [4.0]
    assert totals.digest == "f" * 16


def test_a_microbatch_without_a_label_is_no_nan() -> None:
    figures_MS = torch.cat([FIGURES_MS, torch.tensor([[0.0, 0.0, 0.0, 0.0, -math.inf, 0.0]], dtype=torch.float64)])
    assert step(figures_MS).batch_het == 3 - (3 + 0.5 + 0) / 3


def test_what_a_loss_does_not_measure_stays_unknown() -> None:
    figures_MS = FIGURES_MS.clone()
    figures_MS[:, [2, 4]] = math.nan
    totals = step(figures_MS)
    assert math.isnan(totals.mean_lse)
    assert math.isnan(totals.max_logit)
    assert totals.loss == 9 / 8
