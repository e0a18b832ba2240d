"""Who gets which optimizer, by the names of the real model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tests.train.optim.small_model import model_of
from train.optim.adamw import AdamWConfig
from train.optim.config import OPTIMIZERS, OptimizerConfig
from train.optim.groups import Optimizers, optimizers_config
from train.optim.muon import MuonConfig
from train.optim.orthogonal.owned import OwnedMatrices

SECTION = OptimizerConfig(muon=MuonConfig(lr=1e-3, weight_decay=0.2), adamw=AdamWConfig(lr=2e-4, weight_decay=0.1))
EXPERTS = "moe.routed_experts.inner_experts"

ADAMW = ["tok_embeddings.weight", "lm_head.weight"]
GAINS = [
    "norm.weight",
    *(f"layers.1.attention.{name}_norm.weight" for name in ("q", "k")),
    *(f"layers.1.{name}_norm.weight" for name in ("attention", "attention_post", "ffn", "ffn_post")),
]
MUON = [
    *(f"layers.{i}.attention.qkv_linear.{name}.weight" for i in (0, 1) for name in ("wq", "wk", "wv")),
    *(f"layers.1.attention.{name}.weight" for name in ("wo", "gate")),
    *(f"layers.0.feed_forward.{name}.weight" for name in ("w1", "w2", "w3")),
    *(f"layers.1.moe.shared_experts.{name}.weight" for name in ("w1", "w2", "w3")),
    "layers.1.moe.router.gate.weight",
    *(f"layers.1.{EXPERTS}.{name}" for name in ("w1_EFD", "w2_EDF", "w3_EFD")),
]


def trinity(extra: dict[str, torch.Tensor] | None = None) -> nn.Module:
    shapes = dict.fromkeys(ADAMW, (16, 4)) | dict.fromkeys(GAINS, (4,)) | dict.fromkeys(MUON, (4, 4))
    shapes |= {name: (2, 4, 4) for name in MUON if EXPERTS in name}
    return model_of({name: torch.ones(shape) for name, shape in shapes.items()} | (extra or {}))


def build(model: nn.Module) -> Optimizers:
    return optimizers_config(SECTION).build(model_parts=[model])


def names_by(optimizers: Optimizers, key: str) -> dict[tuple[str, object], set[str]]:
    """{(optimizer, value of a setting): names}."""
    found: dict[tuple[str, object], set[str]] = {}
    for optim in optimizers:
        for group in optim.param_groups:
            found.setdefault((type(optim).__name__, group[key]), set()).update(group["param_names"])
    return found


def test_every_parameter_is_where_it_belongs():
    assert names_by(build(trinity()), "weight_decay") == {
        ("AdamW", 0.1): set(ADAMW),
        ("AdamW", 0.0): set(GAINS),  # weight decay would pull gains to 0
        ("Muon", 0.2): set(MUON),
    }


def test_wrappers_in_names_change_nothing():
    wrapped = "layers.0._checkpoint_wrapped_module.attention.wo.weight"  # under activation checkpointing
    optimizers = build(trinity({wrapped: torch.ones(4, 4)}))
    assert "layers.0.attention.wo.weight" in names_by(optimizers, "lr")["Muon", 1e-3]


def test_a_parameter_that_nobody_takes_is_named():
    with pytest.raises(ValueError, match=r"1 trainable parameters: layers\.0\.conv\.kernel \(3, 4\)"):
        build(trinity({"layers.0.conv.kernel": torch.ones(3, 4)}))


def test_a_frozen_parameter_needs_no_optimizer():
    model = trinity({"layers.0.conv.kernel": torch.ones(3, 4)})
    model.get_parameter("layers.0.conv.kernel").requires_grad_(False)
    assert "layers.0.conv.kernel" not in set().union(*names_by(build(model), "lr").values())


def test_learning_rates_follow_the_scheduler():
    optimizers = build(trinity())
    for optim in optimizers:
        LambdaLR(optim, lambda _: 0.5)
    assert optimizers.learning_rates() == {"lr_adamw": 1e-4, "lr_muon": 5e-4}


def test_state_survives_the_flat_dict():
    trained, fresh = trinity(), trinity()
    optimizers, resumed = build(trained), build(fresh)
    for param in trained.parameters():
        param.grad = torch.ones_like(param)
    optimizers.step()
    resumed.load_state_dict(optimizers.state_dict())
    want, got = optimizers.state_dict(), resumed.state_dict()
    assert f"state.layers.1.{EXPERTS}.w1_EFD.momentum_buffer" in want
    assert got.keys() == want.keys()
    assert all(is_equal(got[key], want[key]) for key in want)


def is_equal(got: Any, want: Any) -> bool:
    if isinstance(want, OwnedMatrices):
        return got.matrices.keys() == want.matrices.keys() and all(
            torch.equal(got.matrices[index], matrix) for index, matrix in want.matrices.items()
        )
    return torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want


def test_the_section_is_checked_field_by_field():
    section = {"muon": {"lr": 0, "momentum": 1.0, "ns_dtype": "float16"}, "adamw": {"beta": [0.9, 0.95]}}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(OptimizerConfig).validate_python(section, extra="forbid")
    problems = {".".join(map(str, error["loc"])) for error in caught.value.errors()}
    assert problems == {"muon.lr", "muon.momentum", "muon.ns_dtype", "adamw.beta"}


def test_adamw_can_take_every_parameter():
    config = optimizers_config(OptimizerConfig(hidden="adamw", adamw=AdamWConfig(weight_decay=0.3)))
    optimizers = config.build(model_parts=[trinity()])
    assert names_by(optimizers, "weight_decay") == {("AdamW", 0.3): {*MUON, *ADAMW}, ("AdamW", 0.0): set(GAINS)}
    assert optimizers.learning_rates() == {"lr_adamw": 2e-4}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"hidden": "adamv"}, f"hidden must be one of {', '.join(OPTIMIZERS)}, got 'adamv'"),
        ({"others": "muon"}, "got 'muon', which takes matrices only; gains are vectors"),
    ],
)
def test_an_optimizer_that_cannot_take_its_parameters_is_refused(section: dict[str, str], said: str):
    with pytest.raises(ValueError, match=re.escape(said)):
        OptimizerConfig(**section)  # type: ignore[arg-type]


def test_only_what_knows_the_engines_kernels_is_given_them():
    groups = {type(optim).__name__: optim.param_groups[0] for optim in build(trinity())}
    assert groups["AdamW"]["fused"]
    assert "fused" not in groups["Muon"]
