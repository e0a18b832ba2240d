"""ModelConfig -> torchtitan's config tree and ModelSpec."""

from dataclasses import replace

import torch
from torchtitan.models.common.attention import QKVLinear
from torchtitan.models.common.config_utils import make_ffn_config, make_token_dispatcher_config
from torchtitan.models.common.embedding import Embedding
from torchtitan.models.common.feed_forward import FeedForward
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import RoutedExperts
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.models.common.rope import CosSinRoPE
from torchtitan.protocols.model_spec import ModelSpec

from train.afmoe.attention import GatedAttention, inner_attention
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe, AfmoeBlock
from train.afmoe.head import Head
from train.afmoe.moe import Experts, MoE
from train.afmoe.parallelize import parallelize
from train.afmoe.router import Gate, Router

SKIP = {"weight": skip_param_init}
"""Modules leave their weights alone: train/afmoe/init.py fills them all, by name."""

WORST_CASE = "_worst_case"
"""Ending of the name of a dispatcher that has room for every token at every rank."""


def model_spec(model: ModelConfig, *, seq_len: int, draws_weights: bool) -> ModelSpec:
    """What torchtitan's Trainer builds a model from. draws_weights: whether no checkpoint has them."""
    return ModelSpec(
        name="afmoe",
        flavor=model.name,
        model=replace(afmoe_config(model, seq_len=seq_len, dispatcher=model.dispatcher), draws_weights=draws_weights),
        parallelize_fn=parallelize,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


def afmoe_config(model: ModelConfig, *, seq_len: int, seed: int = 0, dispatcher: str = "standard") -> Afmoe.Config:
    """The config tree of `model` for sequences of at most `seq_len` tokens.

    dispatcher: as `model.dispatcher`, which only training takes: others need a process group before there is a model.
    """
    return Afmoe.Config(
        dim=model.dim,
        vocab_size=model.vocab_size,
        tok_embeddings=Embedding.Config(num_embeddings=model.vocab_size, embedding_dim=model.dim, param_init=SKIP),
        layers=[_block(model, i, seq_len=seq_len, dispatcher=dispatcher) for i in range(model.num_layers)],
        norm=_norm(model, model.dim),
        lm_head=Head.Config(in_features=model.dim, out_features=model.vocab_size, param_init=SKIP),
        embedding_scale=model.dim**0.5 if model.scale_embedding else 1.0,
        sliding_window=model.sliding_window,
        weight_std=model.weight_std,
        seed=seed,
    )


def _block(model: ModelConfig, layer_id: int, *, seq_len: int, dispatcher: str) -> AfmoeBlock.Config:
    is_dense = model.is_dense(layer_id)
    return AfmoeBlock.Config(
        attention_norm=_norm(model, model.dim),
        attention=_attention(model, layer_id, seq_len=seq_len),
        attention_post_norm=_norm(model, model.dim),
        ffn_norm=_norm(model, model.dim),
        feed_forward=_feed_forward(model, model.dense_hidden_dim) if is_dense else None,
        moe=None if is_dense else _moe(model, dispatcher),
        ffn_post_norm=_norm(model, model.dim),
    )


def _attention(model: ModelConfig, layer_id: int, *, seq_len: int) -> GatedAttention.Config:
    q_dim, kv_dim = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    is_global = model.is_global(layer_id)
    # the only place that asks which machine this is
    backend = model.attention if model.attention != "auto" else "flex" if torch.cuda.is_available() else "sdpa"
    return GatedAttention.Config(
        dim=model.dim,
        n_heads=model.num_heads,
        n_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        qkv_linear=QKVLinear.Config(
            head_dim=model.head_dim, wq=_linear(model.dim, q_dim), wkv=_linear(model.dim, kv_dim)
        ),
        qk_norm=_norm(model, model.head_dim),
        rope=CosSinRoPE.Config(dim=model.head_dim, max_seq_len=seq_len, theta=model.rope_theta),
        inner_attention=inner_attention(backend, window=None if is_global else model.sliding_window),
        gate=_linear(model.dim, q_dim),
        wo=_linear(q_dim, model.dim),
        is_global=is_global,
    )


def _moe(model: ModelConfig, dispatcher: str) -> MoE.Config:
    shared_dim = model.num_shared_experts * model.expert_hidden_dim
    router = Router.Config(
        num_experts=model.num_experts,
        gate=Gate.Config(in_features=model.dim, out_features=model.num_experts, param_init=SKIP),
        top_k=model.top_k,
        route_norm=model.route_norm,
        route_scale=model.route_scale,
    )
    experts = Experts.Config(
        dim=model.dim,
        hidden_dim=model.expert_hidden_dim,
        num_experts=model.num_experts,
        param_init={name: skip_param_init for name in ("w1_EFD", "w2_EDF", "w3_EFD")},
    )
    token_dispatcher = make_token_dispatcher_config(
        num_experts=model.num_experts,
        top_k=model.top_k,
        comm_backend=dispatcher.removesuffix(WORST_CASE),
        non_blocking_capacity_factor=1.0 if dispatcher.endswith(WORST_CASE) else None,  # less would drop tokens unseen
    )
    return MoE.Config(
        num_experts=model.num_experts,
        router=router,
        routed_experts=RoutedExperts.Config(inner_experts=experts, token_dispatcher=token_dispatcher),
        shared_experts=_feed_forward(model, shared_dim) if shared_dim else None,
    )


def _feed_forward(model: ModelConfig, hidden_dim: int) -> FeedForward.Config:
    return make_ffn_config(dim=model.dim, hidden_dim=hidden_dim, w1_param_init=SKIP, w2w3_param_init=SKIP)


def _linear(in_features: int, out_features: int) -> Linear.Config:
    return Linear.Config(in_features=in_features, out_features=out_features, param_init=SKIP)


def _norm(model: ModelConfig, width: int) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=width, eps=model.norm_eps, param_init=SKIP)
