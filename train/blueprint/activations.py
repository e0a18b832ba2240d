"""What a layer takes besides its weights, in a forward and a backward pass: both are run, on the meta device.

The layer is the model's own, with the recomputation of the run, as one rank of an expert group has it. Two parts stand
in for what the meta device does not have: attention by a fused kernel, which keeps its operands, its output and a
float32 number for each query and head, as FlexAttention and FlashAttention do; and a dispatcher by which as many tokens
arrive as leave. What kernels take within themselves, and the buffers of the exchange between ranks, are not seen.

B = batch, L = sequence, D = model width, N = heads, H = head width, T = B L, K = experts a token visits, E = experts,
R = T K.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointing
from torchtitan.distributed.utils import set_spmd_backend
from torchtitan.models.common.token_dispatcher import LocalDispatchMetadata, LocalTokenDispatcher
from torchtitan.protocols.module import Module

from train.afmoe.attention import GLOBAL, LOCAL
from train.afmoe.decoder import AfmoeBlock
from train.blueprint.tensor_memory import TensorMemory


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """Of one layer and one microbatch."""

    weights: int
    """Whole, as the rank gathers them to compute the layer: of the experts, those of its place in its group."""
    kept: int
    """From its forward to its backward pass, its input included."""
    peak: int
    """At the worst moment of its backward pass: with what is kept, what is computed again, all gradients."""


def layer_bytes(
    layer: AfmoeBlock.Config,
    *,
    batch: int,
    seq_len: int,
    expert_ranks: int,
    recompute: ActivationCheckpointing.Config | None,
    dtype: torch.dtype,
) -> LayerBytes:
    """recompute: as torchtitan's Trainer has it, but for its memory budget, which only a compiler keeps. dtype: what
    weights are gathered in, and layers compute in."""
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        block = _on_one_rank(layer, expert_ranks).build()
        for parameter in block.parameters():  # as FSDP does; buffers stay what they are
            parameter.data = parameter.data.to(dtype)
        weights = sum(parameter.nbytes for parameter in block.parameters())
        run = _recomputed(block, recompute)
        positions_BL = torch.empty(batch, seq_len, dtype=torch.int64)  # one for all layers, so not counted
        with TensorMemory() as memory:
            x_BLD = torch.empty(batch, seq_len, layer.attention.dim, dtype=dtype, requires_grad=True)
            out_BLD = run(x_BLD, {LOCAL: None, GLOBAL: None}, positions_BL)
            kept = memory.live_bytes - out_BLD.nbytes  # which the next layer counts
            out_BLD.backward(torch.empty_like(out_BLD))
    return LayerBytes(weights=weights, kept=kept, peak=memory.peak_bytes)


def _recomputed(block: nn.Module, recompute: ActivationCheckpointing.Config | None) -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleDict({"0": block})
    if recompute is not None:
        recompute.build(dump_folder="").apply(model)
    return cast(nn.ModuleDict, model.layers)["0"]


def _on_one_rank(layer: AfmoeBlock.Config, expert_ranks: int) -> AfmoeBlock.Config:
    attention = replace(layer.attention, inner_attention=_FusedAttention.Config())
    if layer.moe is None:
        return replace(layer, attention=attention)
    routed, experts = layer.moe.routed_experts, layer.moe.num_experts // expert_ranks
    routed = replace(
        routed,
        inner_experts=replace(routed.inner_experts, num_experts=experts),
        token_dispatcher=_EvenDispatcher.Config(
            num_experts=layer.moe.num_experts, top_k=layer.moe.router.top_k, num_local_experts=experts
        ),
    )
    return replace(layer, attention=attention, moe=replace(layer.moe, routed_experts=routed))


class _FusedAttention(Module):
    """The flash kernel of torch, of which the meta device knows the shapes."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        pass

    def __init__(self, config: Config):
        super().__init__()

    def forward(self, q_BLNH: Tensor, k_BLNH: Tensor, v_BLNH: Tensor, **settings: Any) -> Tensor:
        heads_first = [x_BLNH.transpose(1, 2) for x_BLNH in (q_BLNH, k_BLNH, v_BLNH)]
        return torch.ops.aten._scaled_dot_product_flash_attention(*heads_first, 0.0, True)[0].transpose(1, 2)


class _EvenDispatcher(LocalTokenDispatcher):
    """Of a rank whose experts get as many tokens as it sends: R = T K."""

    @dataclass(kw_only=True, slots=True)
    class Config(LocalTokenDispatcher.Config):
        num_local_experts: int

    def __init__(self, config: Config):
        super().__init__(config)
        self.num_local_experts = config.num_local_experts

    def dispatch(
        self, x_TD: Tensor, topk_scores_TK: Tensor, topk_expert_ids_TK: Tensor, num_local_tokens_per_expert_E: Tensor
    ) -> tuple[Tensor, Tensor, LocalDispatchMetadata]:
        x_RD, counts_E, metadata = LocalTokenDispatcher.dispatch(
            self, x_TD, topk_scores_TK, topk_expert_ids_TK, num_local_tokens_per_expert_E
        )
        return x_RD, counts_E[: self.num_local_experts], metadata
