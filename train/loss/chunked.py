"""Cross-entropy plus z-loss straight from the last hidden states: the logits of a batch never exist as a whole.

Tokens go through the head in chunks. The backward pass of a chunk runs right after its forward pass, so that what is
kept between them is not logits but the gradients of the head's two operands. Extends torchtitan's BaseLoss; its chunked
wrapper starts a backward pass of autograd for every chunk, and torch's linear_cross_entropy has no z-loss.

How large a chunk should be. Each reads and writes the gradient of the head once more, V D float32, and writes and reads
its own share of it, in bfloat16: 12 V D bytes, against 6 C V D flops of its three products. At F flop/s and M bytes/s
that is 2 F / (C M) of the head's time:

    C = 1,024   41 %       at 700 TFLOP/s and 3.35 TB/s (H100); 1,600 and 8 (B300) have nearly the same quotient
    C = 2,560   16 %
    C = 8,192    5 %

of a head that is a quarter of Nano's products and a twentieth of Large's. The price are C V float32 logits and, where
the head is bfloat16, their copy of half the size: 0.8 + 0.4 GB at 1,024 tokens of a vocabulary of 200,192, 6.6 + 3.3 GB
at 8,192. So the setting is in bytes, and a recipe for large GPUs raises it. (Arithmetic; CPUs: tests/bench_loss.py.)

B = batch, L = sequence, D = model width, V = vocabulary, T = B L, C = tokens of a chunk, S = the figures of LossSums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchtitan.components.loss import IGNORE_INDEX

from train.loss.sums import LossSums


def logit_loss_(logits_CV: Tensor, labels_C: Tensor, *, z_loss_weight: float, with_gradient: bool) -> LossSums:
    """Figures of a chunk. Overwrites `logits_CV`: with d total / d logits, or, without gradient, with nothing useful.

    With p = softmax(logits): d cross_entropy / d logits = p - onehot(label), d lse^2 / d logits = 2 lse p. The softmax
    is written out because torch's keeps the maximum to itself, and in place because a chunk of
    logits is most of the memory that the loss takes: a copy would double it.
    """
    is_target_C1 = (labels_C != IGNORE_INDEX)[:, None].to(logits_CV.dtype)
    targets_C1 = labels_C.clamp(min=0)[:, None]
    max_C1 = logits_CV.amax(-1, keepdim=True)
    below_max_C1 = max_C1 - logits_CV.gather(-1, targets_C1)
    exp_CV = logits_CV.sub_(max_C1).exp_()
    sum_C1 = exp_CV.sum(-1, keepdim=True)
    lse_C1 = max_C1 + sum_C1.log()
    if with_gradient:
        weight_C1 = is_target_C1 * (1 + 2 * z_loss_weight * lse_C1) / sum_C1
        exp_CV.mul_(weight_C1).scatter_add_(-1, targets_C1, -is_target_C1)
    # not lse - logit: where the label is far ahead, both are large and their difference is small
    terms_C4 = torch.cat([sum_C1.log() + below_max_C1, lse_C1**2, lse_C1, below_max_C1 == 0], dim=-1)
    cross_entropy, z, lse, correct = (terms_C4 * is_target_C1).sum(0)
    max_logit = torch.where(is_target_C1 == 1, max_C1, -torch.inf).amax()
    return LossSums(cross_entropy + z_loss_weight * z, cross_entropy, z, lse, correct, max_logit)


def linear_loss(
    hidden_TD: Tensor,
    head_VD: Tensor,
    labels_T: Tensor,
    *,
    z_loss_weight: float,
    chunk_tokens: int,
    logit_loss_: Callable[..., LossSums] = logit_loss_,
) -> LossSums:
    """The loss of logits hidden @ head^T, float32 whatever the dtype of the two; labels_T: int64, or IGNORE_INDEX.

    At most `chunk_tokens` rows of logits exist at a time. The gradient of the head is summed in float32. It can be
    asked for once: a second backward pass over the same loss raises RuntimeError.
    """
    with_gradient = torch.is_grad_enabled() and (hidden_TD.requires_grad or head_VD.requires_grad)
    chunk_loss_ = partial(logit_loss_, z_loss_weight=z_loss_weight, with_gradient=with_gradient)
    return LossSums(*_LinearLoss.apply(hidden_TD, head_VD, labels_T, chunk_tokens, chunk_loss_, with_gradient))


class _LinearLoss(torch.autograd.Function):
    """linear_loss, with both gradients made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        labels_T: Tensor,
        chunk_tokens: int,
        chunk_loss_: Callable[[Tensor, Tensor], LossSums],
        with_gradient: bool,
    ) -> tuple[Tensor, ...]:
        kept = slice(None if with_gradient else 0)
        grad_TD = torch.empty_like(hidden_TD[kept])
        grad_VD = torch.zeros_like(head_VD[kept], dtype=torch.float32)

        def sums_of(chunk: slice) -> Tensor:
            """float32 [S]. A function, so that nothing of a chunk is left when the next begins."""
            logits_CV = (hidden_TD[chunk] @ head_VD.T).float()
            sums = chunk_loss_(logits_CV, labels_T[chunk])
            if with_gradient:
                grad_CV = logits_CV.to(head_VD.dtype)
                del logits_CV  # float32; its copy in the dtype of the head is all that follows needs
                torch.mm(grad_CV, head_VD, out=grad_TD[chunk])
                grad_VD.add_(grad_CV.T @ hidden_TD[chunk])
            return torch.stack(sums)

        starts = range(0, len(labels_T), chunk_tokens)
        of_chunks = LossSums(*torch.stack([sums_of(slice(start, start + chunk_tokens)) for start in starts]).unbind(1))
        figures = LossSums(*(terms.sum() for terms in of_chunks))._replace(max_logit=of_chunks.max_logit.max())
        ctx.save_for_backward(grad_TD, grad_VD)
        ctx.head_dtype = head_VD.dtype
        ctx.mark_non_differentiable(*figures[1:])
        return tuple(figures)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_figures: Tensor) -> tuple[Tensor | None, ...]:
        grad_TD, grad_VD = ctx.saved_tensors
        scale = grad_figures[0]
        # hidden states: in float32, where no device rounds the scale to bfloat16 first, and all gradients with it
        # head: in place, for its gradient may be larger than a chunk
        scaled_TD = (grad_TD.float() * scale).to(grad_TD.dtype)
        return scaled_TD, grad_VD.mul_(scale).to(ctx.head_dtype), None, None, None, None
