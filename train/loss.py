"""Cross-entropy plus z-loss. Extends torchtitan's BaseLoss.

B = batch, L = sequence, V = vocabulary, T = B L.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss
from torchtitan.config import CompileConfig


def cross_entropy_and_z(logits_TV: Tensor, labels_T: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over labelled tokens of the cross-entropy (nats) and of the squared logsumexp, float32.

    labels_T: int64, IGNORE_INDEX where there is no target. The z-term is that of PaLM (arXiv 2204.02311, section 5):
    it keeps the logits' common offset, which cross-entropy leaves free, near 0.
    """
    return _CrossEntropyAndZ.apply(logits_TV.float(), labels_T)


class _CrossEntropyAndZ(torch.autograd.Function):
    """Both sums from one log-softmax, and both gradients in one pass over it.

    With p = softmax(logits): d ce / d logits = p - onehot(label), d lse^2 / d logits = 2 lse p.
    """

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, labels_T: Tensor) -> tuple[Tensor, Tensor]:
        is_target_T = labels_T != IGNORE_INDEX
        targets_T1 = labels_T.clamp(min=0)[:, None]
        log_p_TV = torch.log_softmax(logits_TV, dim=-1)
        cross_entropy_T = -log_p_TV.gather(-1, targets_T1)[:, 0]
        lse_T = logits_TV.gather(-1, targets_T1)[:, 0] + cross_entropy_T
        ctx.save_for_backward(log_p_TV, targets_T1, is_target_T, lse_T)
        return (cross_entropy_T * is_target_T).sum(), (lse_T**2 * is_target_T).sum()

    @staticmethod
    def backward(ctx: Any, grad_cross_entropy: Tensor, grad_z: Tensor) -> tuple[Tensor, None]:
        log_p_TV, targets_T1, is_target_T, lse_T = ctx.saved_tensors
        weight_T = is_target_T * (grad_cross_entropy + 2 * grad_z * lse_T)
        grad_TV = log_p_TV.exp().mul_(weight_T[:, None])
        grad_TV.scatter_add_(-1, targets_T1, (is_target_T * -grad_cross_entropy)[:, None])
        return grad_TV, None


class CrossEntropyZLoss(BaseLoss):
    """(cross-entropy + weight x z) / tokens, and the two sums for the log."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        z_loss_weight: float = 0.0

    fn: Callable[..., Any]

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None):
        self.z_loss_weight = config.z_loss_weight
        self.fn = cross_entropy_and_z
        self._maybe_compile(compile_config)

    def __call__(
        self, pred: Tensor, labels: Tensor, global_valid_tokens: Tensor | None = None, **kwargs: object
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """pred [B, L, V], labels [B, L]. The loss is this rank's share of the mean over the tokens of all ranks."""
        cross_entropy, z = self.fn(pred.flatten(0, 1), labels.flatten())
        loss = cross_entropy + self.z_loss_weight * z
        if global_valid_tokens is not None:
            loss = loss / global_valid_tokens
        return loss, {"cross_entropy": cross_entropy.detach(), "z": z.detach()}
