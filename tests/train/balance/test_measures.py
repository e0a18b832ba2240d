"""train/balance/measures.py against loads that are worked by hand."""

from __future__ import annotations

from math import log

import pytest
import torch

from data_pipelines.base.errors import RunError
from train.balance.measures import (
    bias_spread,
    dead_experts,
    load_entropy,
    max_violation,
    recoil,
    reversals,
    root_mean_square,
)
from train.balance.panels import balance_panels, by_group, by_layer, router_panels
from train.balance.rules.smebu import saturated
from train.loop.soundness import check_counts, first_unsound_router
from train.loop.totals import format_digest, split_digest

# Four experts, mean load 4; in the second layer all have it.
COUNTS_LE = torch.tensor([[0, 2, 4, 10], [4, 4, 4, 4]])


def test_max_violation_by_hand() -> None:
    assert max_violation(COUNTS_LE).tolist() == [1.5, 0.0]  # (10 - 4) / 4


def test_dead_experts_are_counted_in_each_layer() -> None:
    assert dead_experts(COUNTS_LE).tolist() == [1, 0]


def test_load_entropy_by_hand() -> None:
    # shares 2/16, 4/16, 10/16 of ln 4
    expected = -(1 / 8 * log(1 / 8) + 1 / 4 * log(1 / 4) + 5 / 8 * log(5 / 8)) / log(4)
    assert load_entropy(COUNTS_LE).tolist() == pytest.approx([expected, 1.0], abs=1e-12)
    assert load_entropy(torch.tensor([[7, 0, 0]])).tolist() == [0.0]


def test_saturation_is_near_either_limit() -> None:
    assert saturated(torch.tensor([[0.96, 0.94, 0.0, -0.99], [0.1, 0.2, 0.3, -0.6]])).tolist() == [0.5, 0.0]


def test_spread_and_root_mean_square_by_hand() -> None:
    bias_LE = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
    assert bias_spread(bias_LE).tolist() == [7.0, 0.0]
    assert root_mean_square(bias_LE).tolist() == pytest.approx([12.5**0.5, 1.0])


# Before: up 2, up 2, down 2, rest. Now: down 1 (takes 1 back), up 1, up 3 (takes all 2 back), up 1.
BEFORE_LE = torch.tensor([[2.0, 2.0, -2.0, 0.0]])
NOW_LE = torch.tensor([[-1.0, 1.0, 3.0, 1.0]])


def test_reversals_and_recoil_by_hand() -> None:
    assert reversals(NOW_LE, BEFORE_LE).tolist() == [2 / 4]
    assert recoil(NOW_LE, BEFORE_LE).tolist() == [(1 + 2) / 4]


def test_a_bias_that_goes_on_or_rests_is_not_restless() -> None:
    rest_LE = torch.zeros(1, 4)
    for change_LE, previous_LE in ((NOW_LE, NOW_LE), (NOW_LE, rest_LE), (rest_LE, NOW_LE)):
        assert reversals(change_LE, previous_LE) == 0
        assert recoil(change_LE, previous_LE) == 0


def test_router_panels_by_hand() -> None:
    # two tokens, two experts: logits 1, 3, -1, 5 (mean 2, mean square 9, variance 5), confidences 0.6 and 0.8
    panels = router_panels(torch.tensor([[8.0, 36.0, 1.4]]), torch.tensor([5.0]), tokens=2, num_experts=2)
    assert {name: values_L.tolist() for name, values_L in panels.items()} == {
        "router_logit_max": [5.0],
        "router_logit_mean": [2.0],
        "router_logit_std": pytest.approx([5**0.5]),
        "routing_confidence": pytest.approx([0.7]),
    }


def test_panels_say_what_they_are_of() -> None:
    bias_LE, change_LE = torch.tensor([[1.0, -1.0, 0.0, 0.0]] * 2), torch.full((2, 4), 0.5)
    panels = balance_panels(COUNTS_LE, bias_LE=bias_LE, change_LE=change_LE, previous_LE=-change_LE)
    layers = by_layer(panels, ["2", "5"])
    assert layers["max_violation"] == {"2": 1.5, "5": 0.0}
    assert layers["bias_spread"] == {"2": 2.0, "5": 2.0}
    assert layers["bias_change"] == {"2": 0.5, "5": 0.5}
    assert layers["bias_reversals"] == {"2": 1.0, "5": 1.0}


def test_a_group_has_its_worst_violation_its_sum_of_dead_experts_and_means() -> None:
    values_L = torch.tensor([1.0, 3.0, 5.0, 4.0, 0.0])  # thirds of five layers: two, two, one
    groups = by_group({"max_violation": values_L, "dead_experts": values_L.long(), "load_entropy": values_L})
    assert groups == {
        "early": {"max_violation": 3.0, "dead_experts": 4.0, "load_entropy": 2.0},
        "middle": {"max_violation": 5.0, "dead_experts": 9.0, "load_entropy": 4.5},
        "late": {"max_violation": 0.0, "dead_experts": 0.0, "load_entropy": 0.0},
    }


def test_groups_without_a_layer_are_left_out() -> None:
    assert by_group({"load_entropy": torch.tensor([0.5, 0.25])}) == {
        "early": {"load_entropy": 0.5},
        "middle": {"load_entropy": 0.25},
    }


def test_tokens_that_were_counted_twice_stop_the_run() -> None:
    check_counts(COUNTS_LE, ["2", "3"], tokens=8, top_k=2)  # 16 routed
    with pytest.raises(RunError, match=r"layer 3 counted 32 routed tokens; 8 tokens x top_k 2 = 16"):
        check_counts(COUNTS_LE * torch.tensor([[1], [2]]), ["2", "3"], tokens=8, top_k=2)


def test_the_first_layer_whose_router_is_unsound_is_named() -> None:
    balance_loss_L = torch.tensor([1.5, float("nan"), float("nan")])
    assert list(first_unsound_router(balance_loss_L, ["2", "3", "4"])) == [
        "router of layer 3 (its logits or its input)"
    ]
    assert first_unsound_router(balance_loss_L[:1], ["2"]) == {}


def test_digests_add_up_modulo_2_to_the_64() -> None:
    digests = [2**64 - 1, 2**63 + 5, 7, 2**32]
    halves = torch.tensor([split_digest(digest) for digest in digests], dtype=torch.float64).sum(0)
    assert format_digest(halves.tolist()) == f"{sum(digests) % 2**64:016x}"
