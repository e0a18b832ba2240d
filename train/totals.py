"""The figures of one optimizer step, over all its microbatches and ranks.

M = microbatches of this rank, L = MoE layers, E = experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from train import metrics
from train.model.tally import Tallies
from train.reduce import reduce_together


class Totals(NamedTuple):
    """On the host; the same on every rank."""

    loss: float
    """Mean cross-entropy, nats per token."""
    mean_z: float
    """Mean squared logsumexp of the LM logits."""
    balance_loss: float
    """Sequence-wise balance loss before its weight: mean over the sequences of the global batch, layers summed."""
    batch_het: float
    """Largest mean cross-entropy of a microbatch, less their mean. Trinity report, section 3."""
    counts_LE: Tensor
    """int64: tokens that each expert got."""
    router: dict[str, Tensor]
    """Panels of the router's logits, float64 [L] each."""
    digest: str
    """Of the windows of the global batch, 16 hex digits."""


def total(
    sums_M3: Tensor, tallies: Tallies, *, digest: int, num_sequences: int, tokens: int, group: dist.ProcessGroup | None
) -> Totals:
    """In two collectives, one for sums and one for maxima, however many figures there are.

    sums_M3: float64, cross-entropy, z and number of labelled tokens of each microbatch; digest: of this rank's windows;
    num_sequences, tokens: of the whole step; group: the ranks that share its batch (None: one rank).
    """
    losses_M = sums_M3[:, 0] / sums_M3[:, 2]
    halves = torch.tensor(metrics.split_digest(digest), device=losses_M.device)
    count = torch.tensor(len(losses_M), device=losses_M.device)
    sums, loss_sum, num_losses, counts_LE, balance_loss, router_L3, halves = reduce_together(
        [
            *(sums_M3.sum(0), losses_M.sum(), count),
            *(tallies.counts_LE, tallies.balance_loss_L.sum(), tallies.router_L3, halves),
        ],
        group=group,
    )
    largest_loss, max_logit_L = reduce_together(
        [losses_M.max(), tallies.max_logit_L], group=group, op=dist.ReduceOp.MAX
    )
    cross_entropy, z, labelled = sums.tolist()
    return Totals(
        loss=cross_entropy / labelled,
        mean_z=z / labelled,
        balance_loss=float(balance_loss) / num_sequences,
        batch_het=float(largest_loss - loss_sum / num_losses),
        counts_LE=counts_LE.long(),
        router=metrics.router_panels(router_L3, max_logit_L, tokens=tokens, num_experts=counts_LE.shape[-1]),
        digest=metrics.format_digest(halves.tolist()),
    )
