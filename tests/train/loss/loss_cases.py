"""The loss as torch's own functions make it, with all logits at once: the independent reference of train/loss/.

T = tokens, D = model width, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX

from train.blueprint.tensor_memory import TensorMemory
from train.loss.sums import LossSums

TOKENS, VOCABULARY = 8192, 200_192
"""A sequence of Trinity's, and its vocabulary."""


def make_batch(
    dtype: torch.dtype = torch.float32, *, tokens: int = 13, width: int = 5, vocabulary: int = 7
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [T, D] and head [V, D] with gradient; labels [T], of which three have no target."""
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    head_VD = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    labels_T = torch.randint(vocabulary, (tokens,), generator=generator)
    labels_T[[0, 5, 12]] = IGNORE_INDEX
    return hidden_TD, head_VD, labels_T


def plain_loss(hidden_TD: Tensor, head_VD: Tensor, labels_T: Tensor, *, z_loss_weight: float) -> LossSums:
    """Its gradients are autograd's."""
    logits_TV = F.linear(hidden_TD, head_VD).float()
    cross_entropy = F.cross_entropy(logits_TV, labels_T, reduction="sum", ignore_index=IGNORE_INDEX)
    is_target_T = labels_T != IGNORE_INDEX
    lse_T = torch.logsumexp(logits_TV, -1) * is_target_T
    z = (lse_T**2).sum()
    max_T, first_T = logits_TV.detach().max(-1)
    return LossSums(
        total=cross_entropy + z_loss_weight * z,
        cross_entropy=cross_entropy,
        z=z,
        lse=lse_T.sum(),
        correct=(first_T == labels_T).sum().float(),
        max_logit=max_T.where(is_target_T, -torch.inf).max(),
    )


def peak_bytes(
    loss: Callable[..., LossSums],
    *,
    width: int,
    tokens: int = TOKENS,
    vocabulary: int = VOCABULARY,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Of all tensors in a forward and a backward pass: hidden states, head, what is made of them, their gradients.

    Under FakeTensorMode no size is too large, and none takes time.
    """
    with TensorMemory() as memory:
        hidden_TD = torch.randn(tokens, width, dtype=dtype).requires_grad_()
        head_VD = torch.randn(vocabulary, width, dtype=dtype).requires_grad_()
        labels_T = torch.randint(vocabulary, (tokens,))
        (loss(hidden_TD, head_VD, labels_T, z_loss_weight=1e-6).total / tokens).backward()
    return memory.peak_bytes
