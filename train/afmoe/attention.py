"""Gated grouped-query attention and its three backends. Extends torchtitan's GQAttention.

    backend   runs on   a layer's module            a batch's masks, one for each kind of layer
    flex      CUDA      FlexAttention               block masks
    varlen    CUDA      VarlenAttention, bfloat16   where documents begin; the window belongs to the module
    sdpa      all       DenseMaskAttention          [B, 1, L, L]

B = batch, L = sequence, D = model width, N = heads, H = head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks
from torchtitan.models.common.attention import (
    FlexAttention,
    GQAttention,
    VarlenAttention,
    VarlenMetadata,
    create_attention_mask,
    create_varlen_metadata_for_document,
    get_causal_mask_mod,
    get_document_mask_mod,
    get_efficient_causal_mask_mod_for_packed_document,
    get_sliding_window_mask_mod,
)
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.rope import RoPE
from torchtitan.protocols.module import Module

LOCAL, GLOBAL = "local", "global"
"""Keys of the two masks of a batch."""

Mask = Tensor | BlockMask | VarlenMetadata


class GatedAttention(GQAttention):
    """GQA with QK-norm, RoPE on local layers only, and a sigmoid gate between attention and output projection.

    Source: Trinity report, section 2.1; the gate reads the same normed input as q, k and v.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(GQAttention.Config):
        gate: Linear.Config
        """Projection dim -> num_heads * head_dim."""
        is_global: bool
        """Full causal attention without RoPE, instead of a sliding window with it."""

    q_norm: RMSNorm
    k_norm: RMSNorm
    rope: RoPE | None

    def __init__(self, config: Config):
        super().__init__(config)
        self.gate = config.gate.build()
        self.mask_key = GLOBAL if config.is_global else LOCAL
        if config.is_global:
            self.rope = None  # the config keeps its RoPE: torchtitan reads the context length from it

    def forward(self, x_BLD: Tensor, attention_masks: Mapping[str, Mask], positions: Tensor | None = None) -> Tensor:
        q_BLNH, k_BLNH, v_BLNH = self.qkv_linear(x_BLD)
        q_BLNH, k_BLNH = self.q_norm(q_BLNH), self.k_norm(k_BLNH)
        if self.rope is not None:
            q_BLNH, k_BLNH = self.rope(q_BLNH, k_BLNH, positions)
        out_BLNH = self.inner_attention(
            q_BLNH,
            k_BLNH,
            v_BLNH,
            attention_masks=attention_masks[self.mask_key],
            scale=self.scaling,
            enable_gqa=self.enable_gqa,
        )
        return self.wo(out_BLNH.flatten(2) * torch.sigmoid(self.gate(x_BLD)))


class DenseMaskAttention(Module):
    """`scaled_dot_product_attention` under a dense mask; FlexAttention has no backward on CPU."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        pass

    def __init__(self, config: Config):
        super().__init__()

    def forward(
        self,
        q_BLNH: Tensor,
        k_BLNH: Tensor,
        v_BLNH: Tensor,
        *,
        attention_masks: Tensor,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        out_BNLH = F.scaled_dot_product_attention(
            q_BLNH.transpose(1, 2),
            k_BLNH.transpose(1, 2),
            v_BLNH.transpose(1, 2),
            attn_mask=attention_masks.to(q_BLNH.dtype),  # as CUDA's kernels require; 0 and -inf are exact in any dtype
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)


def inner_attention(backend: Literal["flex", "varlen", "sdpa"], *, window: int | None) -> Module.Config:
    """The module that weighs the values in a layer whose tokens see `window` tokens, or all before them (None)."""
    if backend == "flex":
        return FlexAttention.Config()
    if backend == "varlen":
        return VarlenAttention.Config(window_size=(-1 if window is None else window - 1, 0))  # left of the token itself
    return DenseMaskAttention.Config()


def build_masks(positions_BL: Tensor, *, window: int, backend: Module.Config) -> Mapping[str, Mask]:
    """The masks of a batch, for all layers: causal within documents, and the same within `window` tokens.

    positions_BL: int64, 0 where a document starts. Token t of a local layer sees t - window + 1 .. t.
    backend: the inner attention of any layer.
    """
    if isinstance(backend, FlexAttention.Config):
        return _block_masks(positions_BL, window=window, block_size=backend.block_size)
    if isinstance(backend, VarlenAttention.Config):
        return dict.fromkeys((GLOBAL, LOCAL), create_varlen_metadata_for_document(positions_BL))
    return _dense_masks(positions_BL, window=window)


def _dense_masks(positions_BL: Tensor, *, window: int) -> dict[str, Tensor]:
    """What is added to the score of a query (third axis) and a key (fourth): 0, or -inf. Float32 [B, 1, L, L].

    `scaled_dot_product_attention` makes the same of a boolean mask, but again in every layer: 3 % of a smoke step.
    """
    return {
        key: torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        for key, mask in visible(positions_BL, window=window).items()
    }


def visible(positions_BL: Tensor, *, window: int) -> dict[str, Tensor]:
    """Boolean [B, 1, L, L]: whether the query (third axis) sees the key (fourth)."""
    document = get_document_mask_mod(positions_BL)
    causal, near = get_causal_mask_mod(), get_sliding_window_mask_mod(window)
    B, L = positions_BL.shape
    device = positions_BL.device
    batch_B111 = torch.arange(B, device=device)[:, None, None, None]
    head, index_L = torch.zeros((), dtype=torch.int64, device=device), torch.arange(L, device=device)
    where = (batch_B111, head, index_L[:, None], index_L)
    same_document = document(*where)
    return {GLOBAL: same_document & causal(*where), LOCAL: same_document & near(*where)}


def _block_masks(positions_BL: Tensor, *, window: int, block_size: int | tuple[int, int]) -> dict[str, BlockMask]:
    B, L = positions_BL.shape
    causal = [get_causal_mask_mod(), get_efficient_causal_mask_mod_for_packed_document(positions_BL)]
    mods = {GLOBAL: causal, LOCAL: [*causal, get_sliding_window_mask_mod(window)]}
    return {
        key: create_attention_mask(and_masks(*mod), B, None, L, L, device=positions_BL.device, BLOCK_SIZE=block_size)
        for key, mod in mods.items()
    }
