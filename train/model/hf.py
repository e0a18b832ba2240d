"""Names and config of the Hugging Face AFMoE layout. Pure: maps, no files.

The published layout has one tensor per expert and projection; ours stacks the experts of a layer. Layout of names and
config keys: the published Trinity checkpoints; torchtitan's w1, w2, w3 are their gate, down, up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import Tensor

from train.model.config import ModelConfig

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
_EXPERT = {"w1_EFD": "gate_proj", "w2_EDF": "down_proj", "w3_EFD": "up_proj"}
_OURS = re.compile(r"layers\.(\d+)\.(.+)")
_OURS_EXPERT = re.compile(r"moe\.routed_experts\.inner_experts\.(w\d_\w+)")

TRAINING_ONLY = ("bias_momentum_E",)
"""Endings of state that belongs to training and is not exported."""

KEEP_FLOAT32 = ("expert_bias",)
"""Endings of exported tensors that stay float32 whatever the export dtype: added to float32 scores."""


def to_hf(state: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Our (name, tensor) pairs -> the published ones, lazily. Raises KeyError for a name that has no counterpart."""
    for name, tensor in state:
        if not name.endswith(TRAINING_ONLY):
            yield from _rename(name, tensor)


def _rename(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name in _OUTER:
        yield _OUTER[name], tensor
        return
    match = _OURS.fullmatch(name)
    if match is None:
        raise KeyError(f"{name} has no Hugging Face name")
    layer_id, inner = match.groups()
    expert = _OURS_EXPERT.fullmatch(inner)
    if expert is None:
        yield f"model.layers.{layer_id}.{_LAYER[inner]}", tensor
        return
    for expert_id, matrix in enumerate(tensor.unbind(0)):
        yield f"model.layers.{layer_id}.mlp.experts.{expert_id}.{_EXPERT[expert[1]]}.weight", matrix


def hf_config(model: ModelConfig, *, seq_len: int, speed: float, token_ids: dict[str, int | None], dtype: str) -> dict:
    """config.json of `model`, with every key that a consumer of published Trinity checkpoints reads.

    speed: bias change per step of the balancing rule, `load_balance_coeff` there; token_ids: bos, eos and pad id.
    """
    layer_types = ["full_attention" if model.is_global(i) else "sliding_attention" for i in range(model.num_layers)]
    return {
        "architectures": ["AfmoeForCausalLM"],
        "model_type": "afmoe",
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "intermediate_size": model.dense_hidden_dim,
        "moe_intermediate_size": model.expert_hidden_dim,
        "num_hidden_layers": model.num_layers,
        "num_dense_layers": model.num_dense_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": seq_len,
        "initializer_range": 0.02,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": False,
        "use_cache": True,
        "rope_theta": model.rope_theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_dropout": 0.0,
        "sliding_window": model.sliding_window,
        "global_attn_every_n_layers": model.global_every,
        "layer_types": layer_types,
        "num_experts": model.num_experts,
        "num_experts_per_tok": model.top_k,
        "num_shared_experts": model.num_shared_experts,
        "num_expert_groups": 1,
        "num_limited_groups": 1,
        "n_group": 1,
        "topk_group": 1,
        "score_func": "sigmoid",
        "route_norm": model.route_norm,
        "route_scale": model.route_scale,
        "load_balance_coeff": speed,
        "use_grouped_mm": True,
        "mup_enabled": model.scale_embedding,
        "torch_dtype": dtype,
        **token_ids,
    }
