"""Muon on one rank: hand-worked steps, the package's own optimizer, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from muon import SingleDeviceMuon, zeropower_via_newtonschulz5
from torch import Tensor
from torch.nn import Parameter

from train.optim.muon import Muon, shape_factor

SHAPES = [(16, 24), (48, 16), (3, 16, 24), (3, 24, 16)]


def parameters(seed: int = 0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def train(optimizer: torch.optim.Optimizer, params: list[Parameter], *, steps: int = 3) -> list[Tensor]:
    for step in range(1, steps + 1):
        for param, grad in zip(params, parameters(seed=step), strict=True):
            param.grad = grad.detach()
        optimizer.step()
    return [param.detach() for param in params]


def test_hand_worked_learning_rate_rule():
    # Trinity report: lr * sqrt(max(1, fan_out / fan_in))
    assert shape_factor(fan_out=12288, fan_in=3072) == 2.0  # sqrt(4), the up-projection of Large's dense layers
    assert shape_factor(fan_out=3072, fan_in=12288) == 1.0  # wide: never below 1
    assert shape_factor(fan_out=3072, fan_in=3072) == 1.0


def test_hand_worked_step():
    # One column, so the orthogonal factor is m / |m| times f, the image of 1 under dion's five polynomials:
    # 1 -> 4.0848 - 6.8946 + 2.9270 = 0.117200 -> 0.452910 -> 1.219145 -> 1.056973 -> 0.978346 = f.
    # Step 1, lr 0.5, decay 0.1, fan_out / fan_in = 4: m = (3, 0, 4, 0), u = f (0.6, 0, 0.8, 0),
    # p = (1 - 0.05) * 1 - 0.5 * 2 * u = 0.95 - f (0.6, 0, 0.8, 0).
    f = 0.978346
    param = Parameter(torch.ones(4, 1))
    param.grad = torch.tensor([[3.0], [0.0], [4.0], [0.0]])
    Muon([param], lr=0.5, weight_decay=0.1, ns_dtype="float32").step()
    want = torch.tensor([[0.95 - 0.6 * f], [0.95], [0.95 - 0.8 * f], [0.95]])
    torch.testing.assert_close(param.detach(), want, rtol=0, atol=2e-6)  # six printed digits of f


def test_hand_worked_momentum():
    # m = 0.5 m + g: 1, then 0.5 * 1 + 1 = 1.5, and the gradient's sign turns it to 0.5 * 1.5 - 1 = -0.25
    param = Parameter(torch.zeros(1, 1))
    optimizer = Muon([param], momentum=0.5)
    seen = []
    for grad in (1.0, 1.0, -1.0):
        param.grad = torch.tensor([[grad]])
        optimizer.step()
        seen.append(optimizer.state[param]["momentum_buffer"].matrices[0].item())
    assert seen == [1.0, 1.5, -0.25]


def test_steps_are_those_of_a_reference_in_four_lines():
    params = parameters()
    weights, momenta = [p.detach().clone() for p in params], [torch.zeros(s) for s in SHAPES]
    for step in range(1, 4):
        for p, m, grad in zip(weights, momenta, parameters(seed=step), strict=True):
            m.mul_(0.95).add_(grad.detach())
            u = zeropower_via_newtonschulz5(m, steps=5)
            p.mul_(1 - 0.02 * 0.1).add_(u, alpha=-0.02 * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)
    got = train(Muon(params, lr=0.02, weight_decay=0.1, coefficients="muon"), params)
    # The same kernel on the same bits; only the float32 update of the weights may round otherwise.
    torch.testing.assert_close(got, weights, rtol=0, atol=1e-6)


def test_nesterov_steps_are_those_of_muon_optimizer():
    # Its momentum is (1 - 0.95) times ours, and the orthogonal factor does not see the scale.
    params, theirs = parameters(), parameters()
    want = train(SingleDeviceMuon(theirs, lr=0.02, weight_decay=0, momentum=0.95), theirs)
    got = train(Muon(params, lr=0.02, nesterov=True, coefficients="muon"), params)
    # Another scale rounds otherwise to bfloat16: measured 2e-2 an entry after five iterations. The shape factor is 1.7.
    torch.testing.assert_close(got, want, rtol=0, atol=3 * 0.02 * 1.7 * 3e-2)


def test_each_expert_is_a_matrix_of_its_own():
    experts = Parameter(torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0)))
    alone = [Parameter(expert.detach().clone()) for expert in experts]
    experts.grad = experts.detach() * torch.tensor([1.0, 100.0, 0.01]).view(3, 1, 1)
    for param, grad in zip(alone, experts.grad, strict=True):
        param.grad = grad.clone()
    Muon([experts], ns_dtype="float32").step()
    Muon(alone, ns_dtype="float32").step()
    torch.testing.assert_close(experts.detach(), torch.stack([p.detach() for p in alone]), rtol=0, atol=1e-7)


def test_groups_keep_their_own_learning_rate():
    slow, fast = Parameter(torch.zeros(4, 4)), Parameter(torch.zeros(4, 4))
    slow.grad = fast.grad = torch.eye(4)
    Muon([{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 0.2}], ns_dtype="float32").step()
    torch.testing.assert_close(fast.detach(), 2 * slow.detach(), rtol=0, atol=1e-7)
    assert slow.detach().abs().max() > 0.05


def test_a_saved_state_goes_on_bitwise_equal():
    params = parameters()
    optimizer = Muon(params)
    train(optimizer, params, steps=2)
    twins = [Parameter(p.detach().clone()) for p in params]
    resumed = Muon(twins)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for got, want in zip(train(resumed, twins), train(optimizer, params), strict=True):
        assert torch.equal(got, want)


def test_a_parameter_without_gradient_is_named():
    params = parameters()
    optimizer = Muon([("wo", params[0]), ("w1", params[1])])
    params[0].grad = torch.ones_like(params[0])
    with pytest.raises(ValueError, match="w1 has no gradient"):
        optimizer.step()


def test_a_parameter_that_comes_after_the_plan_is_refused():
    optimizer = Muon([Parameter(torch.ones(4, 4))])
    with pytest.raises(ValueError, match="give it all parameters when it is made"):
        optimizer.add_param_group({"params": [Parameter(torch.ones(4, 4))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(8), r"gain \(8,\); use AdamW"),
        (torch.ones(2, 2, 4, 4), r"gain \(2, 2, 4, 4\); use AdamW"),
        (torch.ones(4, 4, dtype=torch.bfloat16), "gain in torch.bfloat16; set training.dtype: float32"),
    ],
)
def test_what_is_no_float32_matrix_is_refused_by_name(tensor, message):
    with pytest.raises(ValueError, match=message):
        Muon([("gain", Parameter(tensor))])
