"""The figures of one optimizer step, over all its microbatches and ranks.

M = microbatches of this rank, L = MoE layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from train.afmoe.tally import Tallies
from train.loop.reduce import reduce_together
from train.loss.sums import LossSums

Figure = TypeVar("Figure", Tensor, float)


class Microbatches(NamedTuple):
    """The figures of LossSums of each microbatch of this rank, and its number of labelled tokens; float64."""

    cross_entropy_M: Tensor
    z_M: Tensor
    lse_M: Tensor
    correct_M: Tensor
    max_logit_M: Tensor
    labelled_M: Tensor


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
    batch_het: float
    """Largest mean cross-entropy of a microbatch, less their mean: the Trinity report's BatchHet."""
    balance_loss_L: Tensor
    """float64: sequence-wise balance loss before its weight, mean over the sequences of the global batch."""
    routing: Tallies
    """What the MoE layers of all ranks counted: int64 loads, the rest float64."""
    digest: str
    """Of the windows of the global batch, 16 hex digits."""
    tokens: list[list[int]]
    """Target tokens of each phase and source, as the ranks have served them: [phases][sources]."""
    slowest_rank: int
    """The one that took longest for its local work (train/loop/local_work.py), by its number in the group."""
    slowest_excess: float
    """By what share that is more than the mean of all ranks; 0 where nothing was measured."""
    stop: bool
    """Whether any rank was asked to stop."""


class _OverMicrobatches(NamedTuple, Generic[Figure]):
    """What is added up over microbatches, and then over ranks."""

    cross_entropy: Figure
    z: Figure
    lse: Figure
    correct: Figure
    labelled: Figure
    mean_losses: Figure
    microbatches: Figure


class _Sums(NamedTuple):
    over_microbatches: Tensor
    digest_halves: Tensor
    tokens: Tensor
    counts_LE: Tensor
    balance_loss_L: Tensor
    router_L3: Tensor
    stop_wishes: Tensor
    local_seconds: Tensor


class _Maxima(NamedTuple):
    mean_loss: Tensor
    logit: Tensor
    router_logit_L: Tensor
    slowest: Tensor


def stack(sums: Sequence[LossSums], labelled_M: Tensor) -> Microbatches:
    """The figures of each microbatch, by name. labelled_M: int64, its tokens with a label."""
    by_name = LossSums(*(torch.stack(figures).double() for figures in zip(*sums, strict=True)))
    return Microbatches(
        cross_entropy_M=by_name.cross_entropy,
        z_M=by_name.z,
        lse_M=by_name.lse,
        correct_M=by_name.correct,
        max_logit_M=by_name.max_logit,
        labelled_M=labelled_M.double(),
    )


def total(
    microbatches: Microbatches,
    tallies: Tallies,
    *,
    digest: int,
    tokens: np.ndarray,
    num_sequences: int,
    local_seconds: float,
    wants_stop: bool,
    group: dist.ProcessGroup | None,
) -> Totals:
    """In two collectives, one for sums and one for maxima, however many figures there are.

    digest: of this rank's windows; tokens: in them, of each phase and source, int64 [phases, sources]; num_sequences:
    of the whole step; local_seconds: that this rank took for its local work; wants_stop: whether it was asked to stop;
    group: the ranks that share the batch (None: one).
    """
    rank, num_ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    losses_M = microbatches.cross_entropy_M / microbatches.labelled_M.clamp(min=1)  # a microbatch may have no label
    slowest = torch.tensor([join_slowest(local_seconds, rank)], dtype=torch.float64, device=losses_M.device)
    own_sums = _Sums(
        over_microbatches=_over_microbatches(microbatches, losses_M),
        digest_halves=torch.tensor(split_digest(digest), device=losses_M.device),
        tokens=torch.from_numpy(tokens).to(losses_M.device),
        counts_LE=tallies.counts_LE,
        balance_loss_L=tallies.balance_loss_L,
        router_L3=tallies.router_L3,
        stop_wishes=torch.tensor([float(wants_stop)], device=losses_M.device),
        local_seconds=torch.tensor([local_seconds], device=losses_M.device),
    )
    own_maxima = _Maxima(
        mean_loss=losses_M.max(),
        logit=microbatches.max_logit_M.max(),
        router_logit_L=tallies.max_logit_L,
        slowest=slowest,
    )
    sums = _Sums(*reduce_together(own_sums, group=group))
    maxima = _Maxima(*reduce_together(own_maxima, group=group, op=dist.ReduceOp.MAX))
    return _totals(sums, maxima, num_sequences=num_sequences, num_ranks=num_ranks)


def _over_microbatches(microbatches: Microbatches, losses_M: Tensor) -> Tensor:
    """The sums of this rank, in the order of _OverMicrobatches. losses_M: mean cross-entropy of each microbatch."""
    own = _OverMicrobatches(
        cross_entropy=microbatches.cross_entropy_M,
        z=microbatches.z_M,
        lse=microbatches.lse_M,
        correct=microbatches.correct_M,
        labelled=microbatches.labelled_M,
        mean_losses=losses_M,
        microbatches=torch.ones_like(losses_M),
    )
    return torch.stack(own).sum(1)


def _totals(sums: _Sums, maxima: _Maxima, *, num_sequences: int, num_ranks: int) -> Totals:
    """What follows from the sums and maxima over all ranks, on the host."""
    over: _OverMicrobatches[float] = _OverMicrobatches(*sums.over_microbatches.tolist())
    slowest_seconds, slowest_rank = split_slowest(float(maxima.slowest))
    mean_seconds = float(sums.local_seconds) / num_ranks
    return Totals(
        loss=over.cross_entropy / over.labelled,
        accuracy=over.correct / over.labelled,
        mean_z=over.z / over.labelled,
        mean_lse=over.lse / over.labelled,
        max_logit=float(maxima.logit),
        batch_het=float(maxima.mean_loss) - over.mean_losses / over.microbatches,
        balance_loss_L=sums.balance_loss_L / num_sequences,
        routing=Tallies(
            counts_LE=sums.counts_LE.long(),
            balance_loss_L=sums.balance_loss_L,
            router_L3=sums.router_L3,
            max_logit_L=maxima.router_logit_L,
        ),
        digest=format_digest(sums.digest_halves.tolist()),
        tokens=sums.tokens.long().tolist(),
        slowest_rank=slowest_rank,
        slowest_excess=slowest_seconds / mean_seconds - 1 if mean_seconds else 0.0,
        stop=bool(sums.stop_wishes),
    )


def split_digest(digest: int) -> list[int]:
    """The halves of a 64-bit number; float64 sums them over up to 2^21 ranks without rounding."""
    return [digest >> 32 & 0xFFFF_FFFF, digest & 0xFFFF_FFFF]


def format_digest(halves: Sequence[float]) -> str:
    """Sums of halves -> 16 hex digits of the 64-bit sum."""
    high, low = map(int, halves)
    return f"{((high << 32) + low) % 2**64:016x}"


def join_slowest(seconds: float, rank: int) -> float:
    """One number, so that the largest of all ranks is the slowest and says which: microseconds, then 21 bits of rank.
    float64 holds it exactly up to an hour and 2^21 ranks."""
    return float(min(round(seconds * 1e6), 2**32 - 1) * 2**21 + rank)


def split_slowest(joined: float) -> tuple[float, int]:
    """(seconds, rank) of join_slowest."""
    microseconds, rank = divmod(int(joined), 2**21)
    return microseconds / 1e6, rank
