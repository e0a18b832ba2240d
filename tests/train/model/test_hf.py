"""train/model/hf.py: names and config that transformers takes, for the whole family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torchtitan.distributed.utils import set_spmd_backend

from tests.train.model import build_model, load_in_transformers, tiny_config
from train.config import CONFIGS
from train.model.config import ModelConfig
from train.model.hf import hf_config, to_hf
from train.model.moe import MoE
from train.model.spec import afmoe_config


def family_config(name: str) -> ModelConfig:
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    assert isinstance(settings, dict)
    return ModelConfig(**{str(key): value for key, value in settings.items()})


def test_transformers_misses_no_name_and_expects_no_other(tmp_path: Path) -> None:
    config = tiny_config()
    model = build_model(config, seq_len=8)
    reference, info = load_in_transformers(model, config, tmp_path, seq_len=8)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    moe = model.layers["3"].moe
    assert isinstance(moe, MoE)
    assert torch.equal(reference.model.layers[3].mlp.expert_bias, moe.expert_bias_E)


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        # 3 outer ones; a layer has 4 norms and 7 of attention (q, k, v, o, gate and two norms); then 3 of a dense
        # network, or a gate, a bias, 3 shared ones and 3 an expert:
        ("trinity_nano", 3 + 56 * 11 + 2 * 3 + 54 * (5 + 3 * 128), 6.1e9),
        ("trinity_mini", 3 + 32 * 11 + 2 * 3 + 30 * (5 + 3 * 128), 26.1e9),
        ("trinity_large", 3 + 60 * 11 + 6 * 3 + 54 * (5 + 3 * 256), 398.6e9),
    ],
)
def test_the_family_has_as_many_tensors_and_parameters_as_published(name: str, tensors: int, parameters: float) -> None:
    assert tensors == {"trinity_nano": 21_631, "trinity_mini": 12_031, "trinity_large": 42_423}[name]
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        model = afmoe_config(family_config(name), seq_len=16).build()
    exported = dict(to_hf(model.state_dict().items()))
    assert len(exported) == tensors
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)  # published to 3 digits


def test_the_momentum_of_the_biases_stays_at_home() -> None:
    exported = dict(
        to_hf([("layers.1.moe.bias_momentum_E", torch.zeros(4)), ("layers.1.moe.expert_bias_E", torch.ones(4))])
    )
    assert list(exported) == ["model.layers.1.mlp.expert_bias"]


def test_a_stack_of_experts_becomes_one_matrix_each() -> None:
    stack_EFD = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    exported = dict(to_hf([("layers.7.moe.routed_experts.inner_experts.w1_EFD", stack_EFD)]))
    assert list(exported) == [f"model.layers.7.mlp.experts.{e}.gate_proj.weight" for e in range(2)]
    assert all(torch.equal(matrix, stack_EFD[e]) for e, matrix in enumerate(exported.values()))


@pytest.mark.parametrize("name", ["rope.cache", "layers.0.attention.unknown.weight"])
def test_a_name_without_a_counterpart_is_refused(name: str) -> None:
    with pytest.raises(KeyError):
        list(to_hf([(name, torch.zeros(2))]))


def test_the_config_of_trinity_large() -> None:
    config = hf_config(family_config("trinity_large"), seq_len=8192, speed=5e-4, token_ids={}, dtype="bfloat16")
    assert config["layer_types"] == (["sliding_attention"] * 3 + ["full_attention"]) * 15
    expected = {
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "moe_intermediate_size": 3072,
        "num_experts_per_tok": 4,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
        "load_balance_coeff": 5e-4,
        "mup_enabled": True,
    }
    assert {key: config[key] for key in expected} == expected
