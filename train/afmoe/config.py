"""The numbers of an AFMoE architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

MAX_SIZE = 2**31
"""Sizes and token ids are 32-bit integers in the kernels."""
MAX_LAYERS, MAX_EXPERTS = 1_000, 10_000
"""Beyond what is trained in this form (Switch-C has 2,048 experts); only to list the tensors of 10^7, which then do not
fit, would take many minutes."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """One member of the Trinity family. Source of every default: Arcee Trinity report (arXiv 2602.17004), section 2."""

    name: str
    """Name for logs."""
    vocab_size: int
    """Rows of the embedding and of the (untied) LM head."""
    dim: int
    """Width of the residual stream."""
    num_layers: int
    """Transformer layers."""
    num_dense_layers: int
    """Leading layers with a dense feed-forward network instead of experts."""
    num_heads: int
    """Query heads; num_heads x head_dim need not equal dim."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    dense_hidden_dim: int
    """Hidden width of the dense feed-forward networks."""
    expert_hidden_dim: int
    """Hidden width of each routed expert."""
    num_experts: int
    """Routed experts in a layer."""
    top_k: int
    """Routed experts that a token visits."""
    num_shared_experts: int = 1
    """Experts that every token visits, fused into one network: its hidden width is this number times
    expert_hidden_dim."""
    route_scale: float = 1.0
    """Factor on the (normalised) routing weights."""
    route_norm: bool = True
    """Whether the routing weights of a token are divided by their sum before route_scale."""
    sliding_window: int
    """Tokens that a local layer sees, the current one included."""
    global_every: int = 4
    """Every how many layers one is global, with full causal attention and no RoPE; 4: layers 4, 8, 12, ..."""
    rope_theta: float = 10_000.0
    """Base of the rotary embedding of the local layers."""
    norm_eps: float = 1e-5
    """Epsilon of every RMSNorm."""
    init_std: float | None = None
    """Standard deviation of the truncated normal (cut at 3 of it); null: 0.5 / sqrt(dim)."""
    scale_embedding: bool = True
    """Whether embeddings are multiplied by sqrt(dim) (`mup_enabled` of the published configs)."""
    max_seq_len: int = 131_072
    """Longest sequence the model may be asked for; training.seq_len must fit."""
    attention: Literal["auto", "flex", "varlen", "sdpa"] = "auto"
    """Attention backend: `flex` and `varlen` (FlashAttention, bfloat16) need CUDA, `sdpa` (dense masks) runs anywhere,
    `auto` is flex on CUDA and sdpa elsewhere."""
    dispatcher: Literal["standard", "deepep", "hybridep", "hybridep_worst_case"] = "standard"
    """Who carries tokens to experts on other ranks and back (torchtitan's token dispatchers; all but standard need CUDA
    and DeepEP, and none of these was ever run here):

    `standard`             torch's all-to-all, anywhere. Before each, the host waits for the device to learn how many
                           tokens arrive: once a layer with experts and forward pass, also one that full recomputation
                           repeats. 108 waits a microbatch in Large, in each of which the device runs out of work.
    `deepep`               DeepEP's kernels: a token goes once to a rank that has several of its experts. As many waits.
    `hybridep`             HybridEP's, for GPUs that share memory over NVLink. As many waits.
    `hybridep_worst_case`  without a single wait: every rank has room for all tokens of its group at its experts, up to
                           expert_parallel_degree times as many rows as arrive on average. No token is dropped."""

    def __post_init__(self) -> None:
        positive = ("vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "dense_hidden_dim")
        positive += ("expert_hidden_dim", "num_experts", "top_k", "sliding_window", "global_every", "max_seq_len")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) >= MAX_SIZE:
                raise ValueError(f"{name} must be below {MAX_SIZE:,}, got {getattr(self, name)}")
        for name, most in (("num_layers", MAX_LAYERS), ("num_experts", MAX_EXPERTS)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {getattr(self, name)}")
        for name in ("route_scale", "rope_theta", "norm_eps", "init_std"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # nor NaN
                raise ValueError(f"{name} must be a finite number above 0, got {value}")
        if self.num_shared_experts < 0:
            raise ValueError(f"num_shared_experts must not be negative, got {self.num_shared_experts}")
        if not 0 <= self.num_dense_layers <= self.num_layers:
            raise ValueError(
                f"num_dense_layers must lie in 0..num_layers={self.num_layers}, got {self.num_dense_layers}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}")
        if self.num_dense_layers < self.num_layers and self.num_experts < 2:
            raise ValueError(f"num_experts must be at least 2, got {self.num_experts}")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} exceeds num_experts={self.num_experts}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")

    @property
    def weight_std(self) -> float:
        """Standard deviation of every weight at step 0."""
        return 0.5 / self.dim**0.5 if self.init_std is None else self.init_std

    def is_global(self, layer_id: int) -> bool:
        """Whether layer `layer_id` (from 0) attends to everything before it."""
        return (layer_id + 1) % self.global_every == 0

    def is_dense(self, layer_id: int) -> bool:
        """Whether layer `layer_id` (from 0) has a dense feed-forward network."""
        return layer_id < self.num_dense_layers
