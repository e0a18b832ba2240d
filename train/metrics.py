"""Measures of a training step. Pure."""

from __future__ import annotations

import torch
from torch import Tensor


def max_violation(counts_LE: Tensor) -> Tensor:
    """MaxVio of each layer, float64 [layers]: (largest load - mean load) / mean load. Trinity report, section 2.3."""
    loads_LE = counts_LE.double()
    mean_L = loads_LE.mean(-1)
    return (loads_LE.amax(-1) - mean_L) / mean_L


def dead_experts(counts_LE: Tensor) -> int:
    """Experts, over all layers, that no token visited in the step."""
    return int((counts_LE == 0).sum())


def check_counts(counts_LE: Tensor, *, tokens: int, top_k: int) -> None:
    """Raises RuntimeError unless each layer routed every token of the step exactly top_k times."""
    for row, total in enumerate(counts_LE.sum(-1).tolist()):
        if total != tokens * top_k:
            raise RuntimeError(
                f"MoE layer number {row} counted {total:,} routed tokens; {tokens:,} tokens x top_k {top_k} = "
                f"{tokens * top_k:,} were expected. Biases would follow wrong loads, so the run stops."
            )


def batch_heterogeneity(microbatch_losses: Tensor) -> Tensor:
    """BatchHet: largest minus mean loss over the microbatches of a step. Trinity report, section 3.2."""
    return microbatch_losses.max() - microbatch_losses.mean()


def format_digest(digest: int) -> str:
    """A 64-bit sum, as signed as all_reduce leaves it -> 16 hex digits."""
    return f"{digest % 2**64:016x}"


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that does not exist here (MFU on a CPU) is null."""
    return value if torch.isfinite(torch.tensor(value)) else None
