"""The `loss` section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """The `loss` section."""

    z_loss_weight: float = 0.0
    """Weight of the mean squared logsumexp of the LM logits. Trinity Large: 1e-6, after larger values destabilised it
    (report, section 4)."""
    kernel: Literal["torch", "liger"] = "torch"
    """Who makes the loss: `torch`'s operations, anywhere, or `liger`'s fused linear cross-entropy (liger.py), on CUDA
    with the extra of that name installed. liger reports neither the mean logsumexp nor the largest logit."""
    chunk_tokens: int = 1024
    """Tokens of a microbatch whose logits exist at a time; bounds memory. Numbers differ only by the order of sums.
    liger chooses its own: as many as keep the logits as small as the hidden states of the microbatch."""

    def __post_init__(self) -> None:
        if not 0 <= self.z_loss_weight < math.inf:  # nor NaN
            raise ValueError(f"z_loss_weight must not be negative, and be finite, got {self.z_loss_weight}")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")
