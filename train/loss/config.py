"""The `loss` section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt

FLOAT32_BYTES = 4
TILE = 128
"""Rows that the matrix products of GPUs take at a time: a started tile costs as much as a full one."""


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """The `loss` section."""

    z_loss_weight: float = 0.0
    """Weight of the mean squared logsumexp of the LM logits. Trinity Large: 1e-6, after larger values destabilised it
    (report, section 4)."""
    kernel: Literal["torch", "liger"] = "torch"
    """Who makes the loss: `torch`'s operations, anywhere, or `liger`'s fused linear cross-entropy (liger.py), on CUDA
    with the extra of that name installed. liger reports neither the mean logsumexp nor the largest logit."""
    chunk_mib: PositiveInt = 1024
    """MiB of float32 logits that exist at a time, as many whole tokens of a microbatch as fit (train/loss/chunked.py
    says what more of them buy). Numbers differ only by the order of sums. liger chooses its own: as many as keep the
    logits as small as the hidden states of the microbatch."""
    chunk_tokens: int | None = None
    """The same in tokens, whatever the vocabulary; null: chunk_mib decides."""

    def __post_init__(self) -> None:
        if not 0 <= self.z_loss_weight < math.inf:  # nor NaN
            raise ValueError(f"z_loss_weight must not be negative, and be finite, got {self.z_loss_weight}")
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, or null, got {self.chunk_tokens}")

    def tokens_of_chunk(self, vocab_size: int) -> int:
        """Tokens that go through the head at a time; beyond TILE a multiple of it."""
        if self.chunk_tokens is not None:
            return self.chunk_tokens
        tokens = self.chunk_mib * 2**20 // (FLOAT32_BYTES * vocab_size)
        return tokens - tokens % TILE if tokens > TILE else max(1, tokens)
