"""train/balance/rules/ and the balancer against updates that are worked by hand, and the panels of the same counts."""

from __future__ import annotations

from math import nan, tanh
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from data_pipelines.settings.sections import kinds_of
from train.balance.balancer import Balancer
from train.balance.rules.base import BalanceRule
from train.balance.rules.kinds import BalanceConfig
from train.balance.rules.linear import LinearRule
from train.balance.rules.none import NoRule
from train.balance.rules.sign import SignRule
from train.balance.rules.smebu import SmebuRule

ATOL = 1e-7  # float32 at values of order 0.1

# Four experts, mean load 4: gaps (4 - c) / 4 are 1, 0.5, 0 and -1.5.
COUNTS_LE = torch.tensor([[0, 2, 4, 10]])
SPEED, SHARPNESS, MOMENTUM = 0.1, 2.0, 0.5
SMEBU = SmebuRule(speed=SPEED, sharpness=SHARPNESS, momentum=MOMENTUM)
LINEAR = LinearRule(speed=SPEED, sharpness=SHARPNESS, momentum=MOMENTUM)
SIGN = SignRule(speed=SPEED)
RULES: list[type[BalanceRule]] = [rule for rule in kinds_of(BalanceConfig).values() if rule is not NoRule]
REST_LE = torch.zeros(1, 4)


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


def step(previous_LE: Tensor, counts_LE: Tensor = COUNTS_LE) -> Tensor:
    return SMEBU.change(counts_LE, previous_LE)


def test_smebu_by_hand() -> None:
    # tanh 2 = 0.9640276, tanh 1 = 0.7615942, tanh 3 = 0.9950548; mean = 0.1826418
    # delta = 0.1 (0.7813858, 0.5789524, -0.1826418, -1.1776965); the first change is half of it
    first_LE = step(REST_LE)
    expected_LE = torch.tensor([[0.03906929, 0.02894762, -0.00913209, -0.05888482]])
    torch.testing.assert_close(first_LE, expected_LE, atol=ATOL, rtol=0)
    torch.testing.assert_close(first_LE, 0.5 * hand_worked_delta(), atol=ATOL, rtol=0)


def test_smebus_second_change_keeps_half_of_the_first() -> None:
    # m1 = d / 2, m2 = m1 / 2 + d / 2 = 3 d / 4; then balanced loads, d = 0: m3 = m2 / 2
    second_LE = step(step(REST_LE))
    torch.testing.assert_close(second_LE, 0.75 * hand_worked_delta(), atol=ATOL, rtol=0)
    third_LE = step(second_LE, torch.full((1, 4), 4))
    torch.testing.assert_close(third_LE, 0.375 * hand_worked_delta(), atol=ATOL, rtol=0)


def test_smebu_depends_on_relative_loads_only() -> None:
    torch.testing.assert_close(step(REST_LE, 1000 * COUNTS_LE), step(REST_LE), atol=ATOL, rtol=0)


def test_linear_by_hand() -> None:
    # 0.1 x 2 x gap (1, 0.5, 0, -1.5) = (0.2, 0.1, 0, -0.3), of mean 0; the first change is half of it, the second 3/4
    first_LE = LINEAR.change(COUNTS_LE, REST_LE)
    torch.testing.assert_close(first_LE, torch.tensor([[0.1, 0.05, 0.0, -0.15]]), atol=ATOL, rtol=0)
    second_LE = LINEAR.change(COUNTS_LE, first_LE)
    torch.testing.assert_close(second_LE, torch.tensor([[0.15, 0.075, 0.0, -0.225]]), atol=ATOL, rtol=0)


def test_linear_is_smebu_where_loads_are_nearly_even_and_beyond_its_limit_where_they_are_not() -> None:
    # gaps of 1e-4: tanh(2e-4) = 2e-4 (1 - 1.3e-8), so the changes differ by 1e-8 of 1e-5
    nearly_LE = torch.tensor([[9_999, 10_001, 10_000, 10_000]])
    torch.testing.assert_close(
        LINEAR.change(nearly_LE, REST_LE), SMEBU.change(nearly_LE, REST_LE), atol=1e-12, rtol=1e-6
    )
    one_has_all_LE = torch.tensor([[0, 0, 0, 100]])  # gaps 1, 1, 1, -3
    assert LINEAR.change(one_has_all_LE, REST_LE).abs().max() > SPEED
    assert SMEBU.change(one_has_all_LE, REST_LE).abs().max() < SPEED


def test_sign_by_hand() -> None:
    # signs (+, +, 0, -) x 0.1 = (0.1, 0.1, 0, -0.1), less their mean 0.025
    expected_LE = torch.tensor([[0.075, 0.075, -0.025, -0.125]])
    torch.testing.assert_close(SIGN.change(COUNTS_LE, REST_LE), expected_LE, atol=ATOL, rtol=0)
    # it has no memory: the step before does not matter
    assert torch.equal(SIGN.change(COUNTS_LE, expected_LE), SIGN.change(COUNTS_LE, REST_LE))


def test_centring_the_change_is_re_centring_the_bias() -> None:
    # the report's form of the sign rule, b += speed sign(mean - n), then b -= mean(b), over random loads
    generator = torch.Generator().manual_seed(0)
    ours_LE, theirs_LE = torch.zeros(3, 16), torch.zeros(3, 16)
    for _ in range(20):
        counts_LE = torch.randint(0, 100, (3, 16), generator=generator)
        ours_LE += SIGN.change(counts_LE, ours_LE)
        theirs_LE += SPEED * torch.sign(counts_LE.float().mean(-1, keepdim=True) - counts_LE)
        theirs_LE -= theirs_LE.mean(-1, keepdim=True)
    torch.testing.assert_close(ours_LE, theirs_LE, atol=20 * ATOL, rtol=0)  # 20 roundings of values of order 1


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_moves_a_layers_mean(rule: type[BalanceRule]) -> None:
    counts_LE = torch.randint(0, 100, (5, 16), generator=torch.Generator().manual_seed(0))
    change_LE = rule(speed=SPEED).change(counts_LE, torch.zeros(5, 16))
    torch.testing.assert_close(change_LE.sum(-1), torch.zeros(5), atol=16 * ATOL, rtol=0)  # a sum of 16


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_treats_every_layer_as_if_it_were_alone(rule: type[BalanceRule]) -> None:
    counts_LE = torch.randint(0, 100, (5, 16), generator=torch.Generator().manual_seed(0))
    previous_LE = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    alone = [rule(speed=SPEED).change(counts_LE[n : n + 1], previous_LE[n : n + 1]) for n in range(5)]
    torch.testing.assert_close(rule(speed=SPEED).change(counts_LE, previous_LE), torch.cat(alone), atol=0, rtol=0)


def test_none_leaves_the_biases() -> None:
    layer = make_layer()
    layer.expert_bias_E += torch.tensor([0.1, 0.2, 0.3, -0.6])
    before_E = layer.expert_bias_E.clone()
    Balancer(NoRule(), [layer]).update_biases_(COUNTS_LE)
    assert torch.equal(layer.expert_bias_E, before_E)
    assert not layer.bias_momentum_E.any()


def test_the_balancer_adds_each_layers_own_change() -> None:
    layers = [make_layer(), make_layer()]
    balancer = Balancer(SMEBU, layers)
    counts_LE = torch.cat([COUNTS_LE, COUNTS_LE.flip(-1)])
    for _ in range(2):
        balancer.update_biases_(counts_LE)
    # changes d / 2 and 3 d / 4: the bias is 5 d / 4
    expected_E = 1.25 * hand_worked_delta()[0]
    torch.testing.assert_close(layers[0].expert_bias_E, expected_E, atol=ATOL, rtol=0)
    torch.testing.assert_close(layers[1].expert_bias_E, expected_E.flip(-1), atol=ATOL, rtol=0)
    torch.testing.assert_close(layers[0].bias_momentum_E, 0.75 * hand_worked_delta()[0], atol=ATOL, rtol=0)


def test_the_change_of_the_last_step_is_kept_for_every_rule() -> None:
    # sign: (0.075, 0.075, -0.025, -0.125) in each of two steps
    layer = make_layer()
    balancer = Balancer(SIGN, [layer])
    for _ in range(2):
        balancer.update_biases_(COUNTS_LE)
    expected_E = torch.tensor([0.075, 0.075, -0.025, -0.125])
    torch.testing.assert_close(layer.bias_momentum_E, expected_E, atol=ATOL, rtol=0)
    torch.testing.assert_close(layer.expert_bias_E, 2 * expected_E, atol=ATOL, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_the_balancer_lifts_the_starved_and_lowers_the_crowded(rule: type[BalanceRule]) -> None:
    layer = make_layer()
    Balancer(rule(), [layer]).update_biases_(COUNTS_LE)
    assert layer.expert_bias_E[0] > 0 > layer.expert_bias_E[3]


def test_the_panels_see_how_restless_the_last_update_was() -> None:
    # sign: +-0.1 for the first two experts, then the reverse: half of the four turn round, and take 0.1 back
    balancer = Balancer(SIGN, [make_layer()])
    for counts_LE, expected in (
        (torch.tensor([[2, 6, 4, 4]]), (0.0, 0.0)),
        (torch.tensor([[6, 2, 4, 4]]), (0.5, 0.05)),
    ):
        balancer.update_biases_(counts_LE)
        panels = balancer.panels(counts_LE)
        assert (panels["bias_reversals"].item(), panels["bias_recoil"].item()) == pytest.approx(expected, abs=ATOL)


def test_without_a_rule_nothing_is_restless() -> None:
    balancer = Balancer(NoRule(), [make_layer(), make_layer()])
    balancer.update_biases_(COUNTS_LE.expand(2, 4))
    panels = balancer.panels(COUNTS_LE.expand(2, 4))
    assert panels["bias_reversals"].tolist() == panels["bias_recoil"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("rule", "is_clamped"), [(SmebuRule, True), (LinearRule, False), (SignRule, False)])
def test_saturation_is_shown_of_the_rule_that_clamps(rule: type[BalanceRule], is_clamped: bool) -> None:
    balancer = Balancer(rule(), [make_layer()])
    # gaps 1, 0.5, 0, -1.5; tanh of twice that: 0.964, 0.762, 0, -0.995: two of four are near their limit
    assert balancer.panels(COUNTS_LE).get("saturated_clamps") == (0.5 if is_clamped else None)


def test_the_weight_of_a_sequence_is_its_share_of_the_step() -> None:
    layer = make_layer()
    Balancer(SignRule(sequence_loss_weight=0.5), [layer]).weigh_sequences(2)
    assert layer.balance_loss_weight == 0.25


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("speed", -1.0),
        ("speed", nan),
        ("sharpness", -2.0),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("sequence_loss_weight", -1e-4),
    ],
)
def test_a_number_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        SmebuRule(**{name: value})  # type: ignore[arg-type]
