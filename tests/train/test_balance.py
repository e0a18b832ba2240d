"""train/balance.py against updates that are worked by hand."""

from __future__ import annotations

from math import tanh
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from train.balance import BalanceConfig, Balancer, sign_rule, smebu

ATOL = 1e-7  # float32 at values of order 0.1

# Four experts, mean load 4: gaps (4 - c) / 4 are 1, 0.5, 0 and -1.5.
COUNTS_LE = torch.tensor([[0, 2, 4, 10]])
SPEED, SHARPNESS, MOMENTUM = 0.1, 2.0, 0.5


def hand_worked_delta() -> Tensor:
    """0.1 tanh(2 gap) = 0.1 (tanh 2, tanh 1, 0, -tanh 3), less its mean."""
    clamped = [tanh(2), tanh(1), 0.0, -tanh(3)]
    mean = sum(clamped) / 4
    return torch.tensor([[SPEED * (value - mean) for value in clamped]])


def make_layer(num_experts: int = 4) -> Any:
    """The buffers of a MoE that a Balancer touches."""
    return SimpleNamespace(
        expert_bias_E=torch.zeros(num_experts),
        bias_momentum_E=torch.zeros(num_experts),
        balance_loss_weight=0.0,
    )


def step(momentum_LE: Tensor, counts_LE: Tensor = COUNTS_LE) -> Tensor:
    return smebu(counts_LE, momentum_LE, speed=SPEED, sharpness=SHARPNESS, momentum=MOMENTUM)


def test_smebu_by_hand() -> None:
    # tanh 2 = 0.9640276, tanh 1 = 0.7615942, tanh 3 = 0.9950548; mean = 0.1826418
    # delta = 0.1 (0.7813858, 0.5789524, -0.1826418, -1.1776965); the first change is half of it
    first_LE = step(torch.zeros(1, 4))
    expected_LE = torch.tensor([[0.03906929, 0.02894762, -0.00913209, -0.05888482]])
    torch.testing.assert_close(first_LE, expected_LE, atol=ATOL, rtol=0)
    torch.testing.assert_close(first_LE, 0.5 * hand_worked_delta(), atol=ATOL, rtol=0)


def test_smebus_second_change_keeps_half_of_the_first() -> None:
    # m1 = d / 2, m2 = m1 / 2 + d / 2 = 3 d / 4; then balanced loads, d = 0: m3 = m2 / 2
    second_LE = step(step(torch.zeros(1, 4)))
    torch.testing.assert_close(second_LE, 0.75 * hand_worked_delta(), atol=ATOL, rtol=0)
    third_LE = step(second_LE, torch.full((1, 4), 4))
    torch.testing.assert_close(third_LE, 0.375 * hand_worked_delta(), atol=ATOL, rtol=0)


def test_smebu_depends_on_relative_loads_only() -> None:
    torch.testing.assert_close(step(torch.zeros(1, 4), 1000 * COUNTS_LE), step(torch.zeros(1, 4)), atol=ATOL, rtol=0)


def test_smebu_moves_no_layers_mean() -> None:
    counts_LE = torch.randint(0, 100, (5, 16), generator=torch.Generator().manual_seed(0))
    change_LE = step(torch.zeros(5, 16), counts_LE)
    torch.testing.assert_close(change_LE.sum(-1), torch.zeros(5), atol=16 * ATOL, rtol=0)  # a sum of 16


def test_the_sign_rule_by_hand() -> None:
    # signs (+, +, 0, -) x 0.1 = (0.1, 0.1, 0, -0.1), less their mean 0.025
    bias_LE = sign_rule(COUNTS_LE, torch.zeros(1, 4), speed=0.1)
    torch.testing.assert_close(bias_LE, torch.tensor([[0.075, 0.075, -0.025, -0.125]]), atol=ATOL, rtol=0)
    # a second step adds the same: twice the first
    torch.testing.assert_close(sign_rule(COUNTS_LE, bias_LE, speed=0.1), 2 * bias_LE, atol=ATOL, rtol=0)


def test_the_sign_rule_recentres_a_bias_that_came_in_off_centre() -> None:
    bias_LE = sign_rule(torch.full((1, 4), 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), speed=0.1)
    torch.testing.assert_close(bias_LE, torch.tensor([[-1.5, -0.5, 0.5, 1.5]]), atol=ATOL, rtol=0)


def test_none_leaves_the_biases() -> None:
    layer = make_layer()
    layer.expert_bias_E += torch.tensor([0.1, 0.2, 0.3, -0.6])
    before_E = layer.expert_bias_E.clone()
    Balancer(BalanceConfig(kind="none"), [layer]).update_biases_(COUNTS_LE)
    assert torch.equal(layer.expert_bias_E, before_E)
    assert not layer.bias_momentum_E.any()


def test_the_balancer_adds_each_layers_own_change() -> None:
    layers = [make_layer(), make_layer()]
    config = BalanceConfig(kind="smebu", speed=SPEED, sharpness=SHARPNESS, momentum=MOMENTUM)
    balancer = Balancer(config, layers)
    counts_LE = torch.cat([COUNTS_LE, COUNTS_LE.flip(-1)])
    for _ in range(2):
        balancer.update_biases_(counts_LE)
    # changes d / 2 and 3 d / 4: the bias is 5 d / 4
    expected_E = 1.25 * hand_worked_delta()[0]
    torch.testing.assert_close(layers[0].expert_bias_E, expected_E, atol=ATOL, rtol=0)
    torch.testing.assert_close(layers[1].expert_bias_E, expected_E.flip(-1), atol=ATOL, rtol=0)
    torch.testing.assert_close(layers[0].bias_momentum_E, 0.75 * hand_worked_delta()[0], atol=ATOL, rtol=0)


def test_the_balancer_lifts_the_starved_and_lowers_the_crowded() -> None:
    for kind in ("smebu", "sign"):
        layer = make_layer()
        Balancer(BalanceConfig(kind=kind), [layer]).update_biases_(COUNTS_LE)  # type: ignore[arg-type]
        assert layer.expert_bias_E[0] > 0 > layer.expert_bias_E[3]


def test_the_weight_of_a_sequence_is_its_share_of_the_step() -> None:
    layer = make_layer()
    Balancer(BalanceConfig(kind="sign", sequence_loss_weight=0.5), [layer]).weigh_sequences(2)
    assert layer.balance_loss_weight == 0.25


@pytest.mark.parametrize(("name", "value"), [("speed", -1.0), ("momentum", 1.0), ("sequence_loss_weight", -1e-4)])
def test_a_number_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        BalanceConfig(kind="smebu", **{name: value})  # type: ignore[arg-type]
