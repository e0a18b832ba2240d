"""train/afmoe/router.py: torchtitan's choice, with the logits beside it; and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import TokenChoiceTopKRouter

from train.afmoe.router import Gate, Router

B, L, D, E, K = 2, 5, 24, 6, 2


def make_router(router: type[TokenChoiceTopKRouter], gate: type[Linear], **settings: Any) -> TokenChoiceTopKRouter:
    """Weights from the seed 0."""
    config = router.Config(
        num_experts=E, gate=gate.Config(in_features=D, out_features=E), top_k=K, route_scale=1.5, **settings
    )
    built = config.build()
    torch.nn.init.normal_(built.gate.weight, generator=torch.Generator().manual_seed(0))
    return built


def make_input() -> Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))


# torchtitan's router asks for an autocast that a CPU does not have
@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize("route_norm", [True, False])
@pytest.mark.parametrize("force_balance", [True, False])
def test_it_routes_as_torchtitans_to_the_last_bit(route_norm: bool, force_balance: bool) -> None:
    settings = {"route_norm": route_norm, "_debug_force_load_balance": force_balance}
    ours, theirs = make_router(Router, Gate, **settings), make_router(TokenChoiceTopKRouter, Linear, **settings)
    x_BLD, bias_E = make_input(), torch.linspace(-0.3, 0.3, E)
    routing = ours(x_BLD, bias_E)
    assert all(map(torch.equal, routing[:3], theirs(x_BLD, bias_E)))
    assert torch.equal(routing.logits_BLE, theirs.gate(x_BLD))
    routing.weights_BLK.sum().backward()
    theirs(x_BLD, bias_E)[0].sum().backward()
    assert ours.gate.weight.grad is not None
    assert torch.equal(ours.gate.weight.grad, theirs.gate.weight.grad)


def test_the_logits_are_only_looked_at() -> None:
    routing = make_router(Router, Gate)(make_input(), torch.zeros(E))
    assert not routing.logits_BLE.requires_grad
    assert routing.scores_BLE.requires_grad


@pytest.mark.parametrize(
    ("setting", "value"), [("score_func", "softmax"), ("num_expert_groups", 2), ("num_limited_groups", 1)]
)
def test_a_setting_of_torchtitans_that_it_would_ignore_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} must be .*, got '?{value}'?$"):
        make_router(Router, Gate, **{setting: value})


def test_a_gate_with_a_bias_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^gate\.bias must be false"):
        Gate.Config(in_features=D, out_features=E, bias=True)
