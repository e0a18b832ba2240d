"""Gated grouped-query attention and its two backends. Extends torchtitan's GQAttention.

B = batch, L = sequence, D = model width, N = heads, H = head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks
from torchtitan.models.common.attention import (
    FlexAttention,
    GQAttention,
    create_attention_mask,
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

Mask = Tensor | BlockMask


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
    """`scaled_dot_product_attention` under a dense boolean mask; FlexAttention has no backward on CPU."""

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
            attn_mask=attention_masks,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)


def build_masks(positions_BL: Tensor, *, window: int, backend: Module.Config) -> Mapping[str, Mask]:
    """The two masks of a batch, for all layers: causal within documents, and the same within `window` tokens.

    positions_BL: int64, 0 where a document starts. Token t of a local layer sees t - window + 1 .. t.
    """
    if isinstance(backend, FlexAttention.Config):
        return _block_masks(positions_BL, window=window, block_size=backend.block_size)
    return dense_masks(positions_BL, window=window)


def dense_masks(positions_BL: Tensor, *, window: int) -> dict[str, Tensor]:
    """Boolean masks [B, 1, L, L], True where the query (third axis) sees the key (fourth)."""
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
