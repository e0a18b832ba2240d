"""train/optim/health.py on one rank; test_sharded.py has it on four."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.train.optim.small_model import model_of, set_gradients, values
from train.blueprint.kinds import KINDS, kind_of
from train.optim.adamw import AdamWConfig
from train.optim.config import OptimizerConfig
from train.optim.groups import Optimizers, optimizers_config
from train.optim.health import Health, HealthFigures
from train.optim.muon import MuonConfig, shape_factor
from train.optim.orthogonal.newton_schulz import orthogonalize, residual

SECTION = OptimizerConfig(muon=MuonConfig(lr=0.02, ns_dtype="float32"), adamw=AdamWConfig(lr=0.02))
FIRST_OF = {"dense feed-forward": "layers.0.feed_forward.w1.weight", "router": "layers.1.moe.router.gate.weight"}


def build(model: nn.Module) -> Optimizers:
    optimizers = optimizers_config(SECTION).build(model_parts=[model])
    assert isinstance(optimizers, Optimizers)
    return optimizers


def look(*, every: int, step: int, scale: float = 1.0, rate: float | None = None) -> HealthFigures:
    """At the first step of the small model, which is called number `step`."""
    model = model_of(values(seed=0))
    optimizers = build(model)
    health = Health(optimizers, kind_of, every=every, group=None)
    set_gradients(model, model_of({name: scale * gradient for name, gradient in values(seed=1).items()}))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if rate is None else rate
    health.begin(step)
    optimizers.step()
    return health.end()


def test_every_kind_is_looked_at_and_only_muon_has_a_residual() -> None:
    figures = look(every=1, step=1)
    assert set(figures["update_rms"]) == set(KINDS.values())
    assert set(figures["orthogonality"]) == set(KINDS.values()) - {"embedding", "norms", "head"}


def test_the_first_update_of_adamw_is_one_up_or_down() -> None:
    # m / sqrt(v) = g / |g|; float32 weights of about 1 are 1e-7 from the next, and the update is divided by 0.02
    assert look(every=1, step=1)["update_rms"]["head"] == pytest.approx(1.0, abs=2e-5)


def test_the_figures_of_muon_are_those_of_its_updates() -> None:
    figures = look(every=2, step=4)  # the third look: after two others, the first of two or of one again
    for kind, name in FIRST_OF.items():
        u_MN = orthogonalize(values(seed=1)[name], coefficients="dion", dtype=torch.float32)
        assert figures["orthogonality"][kind] == pytest.approx(float(residual(u_MN)), rel=1e-6)
        update = u_MN * shape_factor(*u_MN.shape)
        assert figures["update_rms"][kind] == pytest.approx(float(update.square().mean().sqrt()), rel=1e-4)


def test_no_figure_depends_on_the_gradients_size() -> None:
    small, large = look(every=1, step=1), look(every=1, step=1, scale=1e3)
    assert large["orthogonality"] == pytest.approx(small["orthogonality"], rel=1e-4)
    assert large["update_rms"] == pytest.approx(small["update_rms"], rel=1e-4)


def test_the_parameters_of_a_kind_take_turns() -> None:
    assert (
        look(every=2, step=2)["orthogonality"]["dense feed-forward"]
        != (look(every=2, step=4)["orthogonality"]["dense feed-forward"])
    )


def test_the_rate_is_that_of_the_step_after_a_state_was_loaded() -> None:
    model = model_of(values(seed=0))
    optimizers = build(model)
    health = Health(optimizers, kind_of, every=1, group=None)
    optimizers.load_state_dict(optimizers.state_dict())  # torch makes new groups of it
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] /= 4
    set_gradients(model, model_of(values(seed=1)))
    health.begin(step=1)
    optimizers.step()
    # state_dict took a step without a gradient; so m = 0.1 g / (1 - 0.9^2), and v = 0.05 g^2 / (1 - 0.95^2)
    want = (0.1 / 0.19) / (0.05 / 0.0975) ** 0.5
    assert health.end()["update_rms"]["head"] == pytest.approx(want, abs=1e-4)


def test_without_a_rate_there_is_no_update() -> None:
    assert look(every=1, step=1, rate=0.0)["update_rms"] == {}


@pytest.mark.parametrize(("every", "step"), [(0, 1), (2, 1), (10, 5)])
def test_other_steps_are_not_looked_at(every: int, step: int) -> None:
    assert look(every=every, step=step) == {}


def test_a_matrix_that_is_orthogonal_has_no_residual() -> None:
    u_MN, _ = torch.linalg.qr(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    assert float(residual(u_MN)) < 1e-6
    assert float(residual(u_MN.mT)) < 1e-6
    # one of four singular values is 0: sqrt(1 / 4)
    assert float(residual(torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])))) == 0.5
