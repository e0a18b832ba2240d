"""train/formats/hf_names.py: names and config that transformers takes, for the whole family."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from transformers import AfmoeConfig

from data_pipelines.base.errors import ConfigError
from tests.train.afmoe import build_model, family_config, load_in_transformers, tiny_config, to_hf
from train.afmoe.moe import MoE
from train.blueprint.shapes import model_shapes
from train.formats.hf_names import contradictions, hf_config, is_published, layer_types, model_config, pieces


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
    exported = [piece for ours, shape in model_shapes(family_config(name)).items() for piece in pieces(ours, shape)]
    assert len({piece.name for piece in exported}) == len(exported) == tensors
    assert sum(prod(piece.shape) for piece in exported) == pytest.approx(parameters, rel=0.01)  # published to 3 digits


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


def test_a_piece_knows_its_place_in_our_tensor() -> None:
    _, second = pieces("layers.7.moe.routed_experts.inner_experts.w2_EDF", (2, 4, 3))
    assert second == ("model.layers.7.mlp.experts.1.down_proj.weight", (4, 3), 1)
    assert (second.offsets, second.sizes) == ((1, 0, 0), (1, 4, 3))
    (whole,) = pieces("layers.0.attention.wo.weight", (5, 6))
    assert whole == ("model.layers.0.self_attn.o_proj.weight", (5, 6), None)
    assert (whole.offsets, whole.sizes) == ((0, 0), (5, 6))


@pytest.mark.parametrize("name", ["rope.cache", "layers.0.attention.unknown.weight", "state.lm_head.weight.exp_avg"])
def test_a_name_without_a_counterpart_is_refused(name: str) -> None:
    assert not is_published(name)
    with pytest.raises(KeyError):
        list(to_hf([(name, torch.zeros(2))]))


def test_every_tensor_of_a_model_is_published_but_the_momentum() -> None:
    state = build_model(tiny_config(), seq_len=8).state_dict()
    assert {name for name in state if not is_published(name)} == {f"layers.{i}.moe.bias_momentum_E" for i in (1, 2, 3)}


# config.json


READ_BY = {
    "transformers": "architectures model_type vocab_size hidden_size intermediate_size moe_intermediate_size "
    "num_hidden_layers num_dense_layers num_attention_heads num_key_value_heads head_dim hidden_act "
    "max_position_embeddings initializer_range rms_norm_eps use_cache tie_word_embeddings rope_parameters num_experts "
    "num_experts_per_tok num_shared_experts route_scale global_attn_every_n_layers sliding_window layer_types "
    "attention_dropout mup_enabled eos_token_id pad_token_id bos_token_id attention_bias torch_dtype",
    "vLLM": "score_func route_norm n_group topk_group",
    "SGLang": "rope_theta rope_scaling",
    "published, read by none of them": "load_balance_coeff num_expert_groups num_limited_groups use_grouped_mm",
}


@pytest.mark.parametrize("reader", READ_BY)
def test_the_config_has_every_key_that_is_read(reader: str) -> None:
    token_ids: dict[str, int | None] = {"bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 2}
    config = hf_config(tiny_config(), max_positions=8, speed=1e-3, token_ids=token_ids, dtype="float32")
    assert set(READ_BY[reader].split()) <= config.keys()


def test_transformers_takes_the_config_as_it_stands() -> None:
    config = hf_config(tiny_config(), max_positions=8, speed=1e-3, token_ids={"eos_token_id": 3}, dtype="bfloat16")
    theirs = AfmoeConfig(**config)
    assert theirs.dtype == torch.bfloat16
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    read = {key: getattr(theirs, key) for key in config if key not in ("torch_dtype", "rope_scaling", "rope_theta")}
    assert read == {key: config[key] for key in read}


def test_the_config_of_trinity_large() -> None:
    config = hf_config(family_config("trinity_large"), max_positions=8192, speed=5e-4, token_ids={}, dtype="bfloat16")
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


PUBLISHED_MINI = {
    "architectures": ["AfmoeForCausalLM"],
    "attention_dropout": 0.0,
    "global_attn_every_n_layers": 4,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 6144,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 8,
    "load_balance_coeff": 0.001,
    "max_position_embeddings": 131072,
    "model_type": "afmoe",
    "moe_intermediate_size": 1024,
    "mup_enabled": True,
    "n_group": 1,
    "num_attention_heads": 32,
    "num_dense_layers": 2,
    "num_expert_groups": 1,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
    "num_limited_groups": 1,
    "num_shared_experts": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000,
    "route_norm": True,
    "route_scale": 2.826,
    "score_func": "sigmoid",
    "sliding_window": 2048,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_cache": True,
    "use_grouped_mm": True,
    "vocab_size": 200192,
}
"""config.json of Trinity-Mini-Base, as published; written before transformers had `rope_parameters`."""


def test_the_published_config_of_mini_is_our_trinity_mini() -> None:
    theirs = model_config(PUBLISHED_MINI)
    assert contradictions(theirs, family_config("trinity_mini")) == []
    differ = {problem.partition("=")[0] for problem in contradictions(theirs, family_config("trinity_nano"))}
    assert differ == {"hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers"} | {
        f"num_{kind}_heads" for kind in ("attention", "key_value")
    }
    exported = hf_config(
        family_config("trinity_mini"), max_positions=131072, speed=1e-3, token_ids={}, dtype="bfloat16"
    )
    assert {key: exported[key] for key in PUBLISHED_MINI} == PUBLISHED_MINI


@pytest.mark.parametrize("name", ["trinity_nano", "trinity_mini", "trinity_large", "trinity_smoke"])
@pytest.mark.parametrize("through_transformers", [False, True])
def test_a_config_comes_back_as_it_went(name: str, through_transformers: bool) -> None:
    ours = replace(family_config(name), route_norm=not through_transformers, num_shared_experts=2, rope_theta=5e5)
    config = hf_config(ours, max_positions=ours.max_seq_len, speed=1e-3, token_ids={}, dtype="float32")
    if through_transformers:
        config = AfmoeConfig(**config).to_dict()
    back = model_config(config)
    assert contradictions(back, ours) == []
    assert back.max_seq_len == ours.max_seq_len


def test_transformers_own_configs_lack_what_it_does_not_read() -> None:
    config = AfmoeConfig(num_hidden_layers=4, hidden_size=64, num_dense_layers=1).to_dict()
    assert "route_norm" not in config
    assert model_config(config).route_norm  # it always normalises


def test_what_a_config_leaves_out_is_what_transformers_takes() -> None:
    from transformers import AfmoeConfig

    theirs = AfmoeConfig(num_hidden_layers=4, hidden_size=64, num_dense_layers=1)
    full = theirs.to_dict()
    optional = ("rms_norm_eps", "route_scale", "global_attn_every_n_layers", "sliding_window", "mup_enabled")
    optional += ("max_position_embeddings",)
    left_out = {key: value for key, value in full.items() if key not in (*optional, "rope_theta", "rope_parameters")}
    assert set(full) - set(left_out) >= set(optional)
    assert model_config(left_out) == model_config(full)


@pytest.mark.parametrize("kinds", ["ssg", "g", "s", "ssssg"])
def test_the_period_of_global_layers_is_that_of_layer_types_where_no_key_says_it(kinds: str) -> None:
    names = {"s": "sliding_attention", "g": "full_attention"}
    config = {**PUBLISHED_MINI, "layer_types": [names[kinds[i % len(kinds)]] for i in range(32)]}
    del config["global_attn_every_n_layers"]
    assert layer_types(model_config(config)) == config["layer_types"]


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["full_attention"] + ["sliding_attention"] * 31, r"every_n_layers=1, .* full_attention in \[1\]"),
        (["sliding_attention"] * 3 + ["full_attention"] * 29, r"every_n_layers=4, .* got 32, .* in \[4, 5, 6, "),
        (["sliding_attention"] * 3 + ["full_attention"], "expected 32 layers, .* got 4, of full_attention, sliding"),
        (["chunked_attention"] * 32, "got 32, of chunked_attention, with"),
    ],
)
def test_layer_types_without_a_period_are_refused_with_what_they_are(kinds: list[str], said: str) -> None:
    config = {**PUBLISHED_MINI, "layer_types": kinds}
    del config["global_attn_every_n_layers"]
    with pytest.raises(ConfigError, match=f"layer_types: not supported; .*{said}"):
        model_config(config)
