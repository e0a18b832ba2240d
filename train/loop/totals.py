"""The figures of one optimizer step, over all its microbatches and ranks.

M = microbatches of this rank, S = figures of each, L = MoE layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from train.afmoe.tally import Tallies
from train.loop.reduce import reduce_together


class Totals(NamedTuple):
    """On the host; the same on every rank."""

    loss: float
    """Mean cross-entropy, nats per token."""
    accuracy: float
    """Share of the tokens whose label had the largest logit."""
    mean_z: float
    """Mean squared logsumexp of the LM logits."""
    mean_lse: float
    """Mean logsumexp of the LM logits; NaN where the loss does not measure it."""
    max_logit: float
    """Largest LM logit; NaN likewise."""
    balance_loss_L: Tensor
    """float64 [L]: sequence-wise balance loss before its weight, mean over the sequences of the global batch."""
    batch_het: float
    """Largest mean cross-entropy of a microbatch, less their mean: the Trinity report's BatchHet."""
    counts_LE: Tensor
    """int64: tokens that each expert got."""
    router_L3: Tensor
    """float64: sums of the router's logits, of their squares, and of the confidence of each token, if watched."""
    max_router_logit_L: Tensor
    """float64, if watched."""
    digest: str
    """Of the windows of the global batch, 16 hex digits."""

    @property
    def routing(self) -> Tallies:
        """What the layers counted, over all ranks."""
        return Tallies(self.counts_LE, self.balance_loss_L, self.router_L3, self.max_router_logit_L)


def total(
    figures_MS: Tensor,
    tallies: Tallies,
    *,
    digest: int,
    num_sequences: int,
    group: dist.ProcessGroup | None,
) -> Totals:
    """In two collectives, one for sums and one for maxima, however many figures there are.

    figures_MS: float64, LossSums without its total, then the number of labelled tokens, of each microbatch; digest: of
    this rank's windows; num_sequences: of the whole step; group: the ranks that share its batch (None: one).
    """
    cross_entropy_M, z_M, lse_M, correct_M, max_logit_M, labelled_M = figures_MS.unbind(1)
    losses_M = cross_entropy_M / labelled_M.clamp(min=1)  # a microbatch may have no label
    sums = torch.stack([cross_entropy_M, z_M, lse_M, correct_M, labelled_M, losses_M, torch.ones_like(losses_M)]).sum(1)
    halves = torch.tensor(split_digest(digest), device=sums.device)
    sums, halves, counts_LE, balance_loss_L, router_L3 = reduce_together(
        [sums, halves, tallies.counts_LE, tallies.balance_loss_L, tallies.router_L3], group=group
    )
    max_loss, max_logit, max_router_logit_L = reduce_together(
        [losses_M.max(), max_logit_M.max(), tallies.max_logit_L], group=group, op=dist.ReduceOp.MAX
    )
    cross_entropy, z, lse, correct, labelled, sum_of_losses, num_losses = sums.tolist()
    return Totals(
        loss=cross_entropy / labelled,
        accuracy=correct / labelled,
        mean_z=z / labelled,
        mean_lse=lse / labelled,
        max_logit=float(max_logit),
        balance_loss_L=balance_loss_L / num_sequences,
        batch_het=float(max_loss) - sum_of_losses / num_losses,
        counts_LE=counts_LE.long(),
        router_L3=router_L3,
        max_router_logit_L=max_router_logit_L,
        digest=format_digest(halves.tolist()),
    )


def split_digest(digest: int) -> list[int]:
    """The halves of a 64-bit number; float64 sums them over up to 2^21 ranks without rounding."""
    return [digest >> 32 & 0xFFFF_FFFF, digest & 0xFFFF_FFFF]


def format_digest(halves: Sequence[float]) -> str:
    """Sums of halves -> 16 hex digits of the 64-bit sum."""
    high, low = map(int, halves)
    return f"{((high << 32) + low) % 2**64:016x}"
