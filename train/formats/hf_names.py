"""Names and config of the Hugging Face AFMoE layout, in both directions. Pure: maps, no files.

The published layout has one tensor per expert and projection; ours stacks the experts of a layer. Layout of names and
config keys: the published Trinity checkpoints; torchtitan's w1, w2, w3 are their gate, down, up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from data_pipelines.base.errors import ConfigError
from train.afmoe.config import ModelConfig

_OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention_post_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_mlp_layernorm.weight",
    "ffn_post_norm.weight": "post_mlp_layernorm.weight",
    "attention.qkv_linear.wq.weight": "self_attn.q_proj.weight",
    "attention.qkv_linear.wk.weight": "self_attn.k_proj.weight",
    "attention.qkv_linear.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "attention.gate.weight": "self_attn.gate_proj.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "moe.router.gate.weight": "mlp.router.gate.weight",
    "moe.expert_bias_E": "mlp.expert_bias",
    "moe.shared_experts.w1.weight": "mlp.shared_experts.gate_proj.weight",
    "moe.shared_experts.w2.weight": "mlp.shared_experts.down_proj.weight",
    "moe.shared_experts.w3.weight": "mlp.shared_experts.up_proj.weight",
}
_STACK = {
    "moe.routed_experts.inner_experts.w1_EFD": "gate_proj",
    "moe.routed_experts.inner_experts.w2_EDF": "down_proj",
    "moe.routed_experts.inner_experts.w3_EFD": "up_proj",
}
_OURS = re.compile(r"layers\.(\d+)\.(.+)")


KEEP_FLOAT32 = ("expert_bias",)
"""Endings of exported tensors that stay float32 whatever the export dtype: added to float32 scores."""

_SAME = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "dense_hidden_dim",
    "moe_intermediate_size": "expert_hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_dense_layers": "num_dense_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "sliding_window": "sliding_window",
    "global_attn_every_n_layers": "global_every",
    "num_experts": "num_experts",
    "num_experts_per_tok": "top_k",
    "num_shared_experts": "num_shared_experts",
    "route_norm": "route_norm",
    "route_scale": "route_scale",
    "mup_enabled": "scale_embedding",
    "rope_theta": "rope_theta",
}
"""Key of config.json -> field of ModelConfig with the same value."""
_FIELDS = {**_SAME, "max_position_embeddings": "max_seq_len"}
"""The same, with what is the weights' and not the model's."""
_TYPES = get_type_hints(ModelConfig)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}

_DEFAULTS = {
    "rms_norm_eps": 1e-5,
    "route_scale": 1.0,
    "global_attn_every_n_layers": 4,
    "sliding_window": 1024,
    "mup_enabled": False,
    "max_position_embeddings": 16_384,
}
"""Key of config.json -> what transformers' AfmoeConfig takes where it is left out (theta of RoPE: `_flat_rope`). Sizes
are not among them: a config without one is damaged."""

_FIXED = {
    "model_type": "afmoe",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_scaling": None,
    "num_expert_groups": 1,
    "num_limited_groups": 1,
    "n_group": 1,
    "topk_group": 1,
    "score_func": "sigmoid",
    "quantization_config": None,
}
"""Key of config.json -> the one value that this model has. A config may leave it out."""


class Piece(NamedTuple):
    """A published tensor, and where it lies in ours."""

    name: str
    """Published name."""
    shape: tuple[int, ...]
    """Published shape."""
    expert_id: int | None
    """Index into our stack of experts; None: the published tensor is all of ours."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Place of its first element in our tensor."""
        return (0,) * len(self.shape) if self.expert_id is None else (self.expert_id, *(0,) * len(self.shape))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its shape as a box of our tensor."""
        return self.shape if self.expert_id is None else (1, *self.shape)


def pieces(name: str, shape: Sequence[int]) -> list[Piece]:
    """The published tensors that our tensor `name` consists of. Raises KeyError for a name without a counterpart."""
    if name in _OUTER:
        return [Piece(_OUTER[name], tuple(shape), None)]
    match = _OURS.fullmatch(name)
    if match is None:
        raise KeyError(f"{name} has no Hugging Face name")
    prefix, inner = f"model.layers.{match[1]}", match[2]
    if inner in _STACK:
        num_experts, *matrix = shape
        return [
            Piece(f"{prefix}.mlp.experts.{expert_id}.{_STACK[inner]}.weight", tuple(matrix), expert_id)
            for expert_id in range(num_experts)
        ]
    return [Piece(f"{prefix}.{_LAYER[inner]}", tuple(shape), None)]


def is_published(name: str) -> bool:
    """Whether our `name` is that of a tensor with a published counterpart."""
    match = _OURS.fullmatch(name)
    return name in _OUTER or (match is not None and match[2] in _LAYER | _STACK)


def hf_config(
    model: ModelConfig, *, max_positions: int, speed: float, token_ids: Mapping[str, int | None], dtype: str
) -> dict[str, Any]:
    """config.json of `model`, with every key that a consumer of published Trinity checkpoints reads.

    max_positions: longest sequence that the weights are meant for; speed: bias change per step of the balancing rule,
    `load_balance_coeff` there; token_ids: bos, eos and pad id.
    Consumers: transformers' and vLLM's read `rope_parameters`, SGLang's and older transformers `rope_theta` and
    `rope_scaling`; vLLM's needs `score_func`, `route_norm`, `n_group` and `topk_group`, which transformers ignores.
    """
    fixed = {key: value for key, value in _FIXED.items() if key != "quantization_config"}  # null would name a method
    return {
        "architectures": ["AfmoeForCausalLM"],
        **fixed,
        **{theirs: getattr(model, ours) for theirs, ours in _SAME.items()},
        "layer_types": layer_types(model),
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "max_position_embeddings": max_positions,
        "load_balance_coeff": speed,
        "initializer_range": 0.02,
        "use_cache": True,
        "use_grouped_mm": True,
        "torch_dtype": dtype,
        **token_ids,
    }


def layer_types(model: ModelConfig) -> list[str]:
    """The attention of each layer, in the words of config.json."""
    return ["full_attention" if model.is_global(i) else "sliding_attention" for i in range(model.num_layers)]


def model_config(config: dict[str, Any]) -> ModelConfig:
    """The architecture that a config.json describes; its max_seq_len is what the weights were made for.

    Raises ConfigError with every key that this model cannot have.
    """
    # transformers' own configs have no route_norm: it always is
    config = {**_DEFAULTS, "route_norm": True, **_period(config), **_flat_rope(config)}
    if config.get("model_type") != _FIXED["model_type"]:
        got = config.get("model_type")
        raise ConfigError([f"model_type={got!r}: another architecture, expected {_FIXED['model_type']!r}"])
    problems = [
        f"{key}={config[key]!r}: not supported, expected {value!r}"
        for key, value in _FIXED.items()
        if config.get(key, value) != value
    ]
    problems += [problem for key in _FIELDS if (problem := _type_problem(key, config.get(key)))]
    if problems:
        raise ConfigError(problems)
    try:
        model = ModelConfig(name="imported", **{ours: config[theirs] for theirs, ours in _FIELDS.items()})
    except ValueError as error:
        raise ConfigError([_in_their_words(str(error))]) from error
    if (got := config.get("layer_types") or layer_types(model)) != layer_types(model):
        full = [i + 1 for i, kind in enumerate(got) if kind == "full_attention"]
        raise ConfigError(
            [
                f"layer_types: not supported; expected {model.num_layers} layers, full_attention in each whose number "
                f"is a multiple of global_attn_every_n_layers={model.global_every}, sliding_attention in the others; "
                f"got {len(got)}, of {', '.join(sorted(set(map(str, got))))}, with full_attention in {full}"
            ]
        )
    return model


def _type_problem(key: str, value: Any) -> str | None:
    """JSON has one kind of number, and words that are true: 64.0, "64" and "false" would each be taken for a value."""
    if value is None:
        return f"{key}: is missing"
    kind = _TYPES[_FIELDS[key]]
    is_right = type(value) is kind or (kind is float and type(value) is int)
    return None if is_right else f"{key}={value!r}: expected {_WORDS[kind]}"


def _in_their_words(problem: str) -> str:
    """What ModelConfig says of its fields, of the keys of config.json."""
    theirs = {ours: key for key, ours in _FIELDS.items()}
    return re.sub(r"\w+", lambda word: theirs.get(word[0], word[0]), problem)


def _period(config: dict[str, Any]) -> dict[str, int]:
    """global_attn_every_n_layers, from the beginning of `layer_types`, which transformers goes by if it is given; the
    rest of them is checked afterwards. Beyond the last layer where none is global."""
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list):
        raise ConfigError([f"layer_types={kinds!r}: expected a list of words"])
    if not kinds:
        return {}
    is_any_global = "full_attention" in kinds
    return {"global_attn_every_n_layers": 1 + (kinds.index("full_attention") if is_any_global else len(kinds))}


def _flat_rope(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the keys of older transformers, `rope_theta` and `rope_scaling`, wherever it keeps the values."""
    found = [rope for rope in (config.get("rope_parameters"), config.get("rope_scaling")) if rope]
    rope = found[0] if found and isinstance(found[0], dict) else {}
    scaling = next((rope for rope in found if not _is_plain(rope)), None)
    return {**config, "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10_000.0)), "rope_scaling": scaling}


def _is_plain(rope: Any) -> bool:
    """Whether positions are turned as they are: not scaled, and not by other rules in each kind of layer."""
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        return False
    return rope.get("rope_type", rope.get("type", "default")) == "default"


def contradictions(theirs: ModelConfig, ours: ModelConfig) -> list[str]:
    """Where the architecture that weights were made with differs from the `model` section that is to take them."""
    return [
        f"{key}={getattr(theirs, field)!r} contradicts model.{field}={getattr(ours, field)!r}; "
        f"set model.{field}={getattr(theirs, field)}"
        for key, field in _SAME.items()
        if getattr(theirs, field) != getattr(ours, field)
    ]
