"""Cross-entropy plus z-loss straight from the last hidden states: the logits of a batch never exist as a whole.

Tokens go through the head in chunks. The backward pass of a chunk runs right after its forward pass, so that what is
kept between them is not logits but the gradients of the head's two operands. Extends torchtitan's BaseLoss; its chunked
wrapper starts a backward pass of autograd for every chunk, and torch's linear_cross_entropy has no z-loss.

B = batch, L = sequence, D = model width, V = vocabulary, T = B L, C = tokens of a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss
from torchtitan.config import CompileConfig

from train.config import LossConfig


class LossSums(NamedTuple):
    """Sums over labelled tokens, float32."""

    total: Tensor
    """cross_entropy + weight * z; the one with a gradient."""
    cross_entropy: Tensor
    """Nats."""
    z: Tensor
    """Squared logsumexp of the logits. PaLM (arXiv 2204.02311), section 5: it keeps their common offset, which
    cross-entropy leaves free, near 0."""


def cross_entropy_and_z(
    logits_CV: Tensor, labels_C: Tensor, *, z_loss_weight: float, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums of cross-entropy and z, and the gradient [C, V] of cross-entropy + weight * z, from one log-softmax.

    With p = softmax(logits): d cross_entropy / d logits = p - onehot(label), d lse^2 / d logits = 2 lse p.
    """
    is_target_C = (labels_C != IGNORE_INDEX).to(logits_CV.dtype)
    targets_C1 = labels_C.clamp(min=0)[:, None]
    log_p_CV = torch.log_softmax(logits_CV, dim=-1)
    cross_entropy_C = -log_p_CV.gather(-1, targets_C1)[:, 0]
    lse_C = logits_CV.gather(-1, targets_C1)[:, 0] + cross_entropy_C
    gradient_CV = None
    if with_gradient:
        weight_C = is_target_C * (1 + 2 * z_loss_weight * lse_C)
        gradient_CV = log_p_CV.exp_().mul_(weight_C[:, None]).scatter_add_(-1, targets_C1, -is_target_C[:, None])
    return (cross_entropy_C * is_target_C).sum(), (lse_C**2 * is_target_C).sum(), gradient_CV


def linear_loss(
    hidden_TD: Tensor,
    head_VD: Tensor,
    labels_T: Tensor,
    *,
    z_loss_weight: float,
    chunk_tokens: int,
    logit_loss: Callable[..., Any] = cross_entropy_and_z,
) -> LossSums:
    """The loss of logits hidden @ head^T, float32 whatever the dtype of the two; labels_T: int64, or IGNORE_INDEX.

    At most `chunk_tokens` rows of logits exist at a time. The gradient of the head is summed in float32.
    """
    with_gradient = torch.is_grad_enabled() and (hidden_TD.requires_grad or head_VD.requires_grad)
    return LossSums(
        *_LinearLoss.apply(hidden_TD, head_VD, labels_T, z_loss_weight, chunk_tokens, with_gradient, logit_loss)
    )


class _LinearLoss(torch.autograd.Function):
    """linear_loss, with both gradients made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        labels_T: Tensor,
        z_loss_weight: float,
        chunk_tokens: int,
        with_gradient: bool,
        logit_loss: Callable[..., Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        cross_entropy, z = torch.zeros(2, dtype=torch.float32, device=hidden_TD.device)
        kept = slice(None if with_gradient else 0)
        grad_TD = torch.empty_like(hidden_TD[kept])
        grad_VD = torch.zeros_like(head_VD[kept], dtype=torch.float32)
        for start in range(0, len(labels_T), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            hidden_CD = hidden_TD[chunk]
            logits_CV = (hidden_CD @ head_VD.T).float()
            chunk_cross_entropy, chunk_z, grad_CV = logit_loss(
                logits_CV, labels_T[chunk], z_loss_weight=z_loss_weight, with_gradient=with_gradient
            )
            cross_entropy += chunk_cross_entropy
            z += chunk_z
            if grad_CV is not None:
                grad_CV = grad_CV.to(head_VD.dtype)
                torch.mm(grad_CV, head_VD, out=grad_TD[chunk])
                grad_VD += grad_CV.T @ hidden_CD
        ctx.save_for_backward(grad_TD, grad_VD)
        ctx.head_dtype = head_VD.dtype
        ctx.mark_non_differentiable(cross_entropy, z)
        return cross_entropy + z_loss_weight * z, cross_entropy, z

    @staticmethod
    def backward(ctx: Any, *grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        grad_TD, grad_VD = ctx.saved_tensors
        scale = grad_sums[0]
        return grad_TD * scale, (grad_VD * scale).to(ctx.head_dtype), None, None, None, None, None


class CrossEntropyZLoss(BaseLoss):
    """The training loss, for a head that is given it instead of making logits (train/model/head.py)."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        section: LossConfig

    fn: Callable[..., Any]

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None):
        self.z_loss_weight = config.section.z_loss_weight
        self.chunk_tokens = config.section.chunk_tokens
        self.fn = cross_entropy_and_z
        self._maybe_compile(compile_config)

    def __call__(self, hidden_BLD: Tensor, head_VD: Tensor, labels_BL: Tensor) -> LossSums:
        return linear_loss(
            hidden_BLD.flatten(0, 1),
            head_VD,
            labels_BL.flatten(),
            z_loss_weight=self.z_loss_weight,
            chunk_tokens=self.chunk_tokens,
            logit_loss=self.fn,
        )
