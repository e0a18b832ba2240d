"""linear_loss of train/loss/chunked.py by Liger's fused kernels, on CUDA (loss.kernel=liger). Its package is optional.

Liger (github.com/linkedin/Liger-Kernel, version 0.8.5) does what chunked.py does: tokens go through the head in chunks,
logits have the dtype of the head, the softmax is float32, and both gradients are made on the way forward, that
of the head summed in float32. What differs:

- z comes as weight * z, kept per token in the dtype of the hidden states: in bfloat16 z has 8 bits. This error
  is in the cross-entropy too, which is the total less that;
- of labels that share the largest logit with others, only the first of the vocabulary counts as correct;
- the sum of logsumexp and the largest logit are not measured: both are NaN;
- the gradient of the head is rounded to its dtype before it is scaled, and a second backward pass over the same loss
  scales it twice, unnoticed;
- the host waits for the device twice a microbatch: for the number of labels, and to see whether the scale is 1.

T = tokens of a microbatch, D = model width, V = vocabulary.
"""

from __future__ import annotations

import torch
from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX

from train.loss.sums import LossSums

UNSEEN_WEIGHT = 1e-12
"""Measures z where it is no part of the loss. float32 keeps nothing of it: the factor 1 + 2 weight logsumexp is 1 up to
a logsumexp of 10^4, and what it adds to a token's loss is 1e-9 at a logsumexp of 30."""


def liger_loss(hidden_TD: Tensor, head_VD: Tensor, labels_T: Tensor, *, z_loss_weight: float) -> LossSums:
    """The loss of logits hidden @ head^T; labels_T: int64, or IGNORE_INDEX."""
    weight = z_loss_weight or UNSEEN_WEIGHT
    no_class_weights = no_bias = no_softcap = None
    label_smoothing, token_scaling, mean_accuracy = 0.0, False, False
    total, weighted_z, _, predicted_T = LigerFusedLinearCrossEntropyFunction.apply(
        hidden_TD,
        head_VD,
        labels_T,
        no_bias,
        no_class_weights,
        IGNORE_INDEX,
        weight,
        label_smoothing,
        "sum",
        no_softcap,
        True,  # z
        torch.float32,  # gradient of the head
        token_scaling,
        mean_accuracy,
        True,  # predicted tokens, -1 where there is no label
    )
    weighted_z = weighted_z.detach().float()
    unknown = torch.full_like(weighted_z, torch.nan)
    return LossSums(
        total=total,
        cross_entropy=total.detach() - weighted_z,
        z=weighted_z / weight,
        lse=unknown,
        correct=(predicted_T == labels_T).sum().float(),
        max_logit=unknown,
    )
