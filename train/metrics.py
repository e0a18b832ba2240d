"""Measures of a training step. Pure."""

from __future__ import annotations

import math

from torch import Tensor

from train.errors import RunError


def max_violation(counts_LE: Tensor) -> Tensor:
    """MaxVio of each layer, float64 [layers]: (largest load - mean load) / mean load. Trinity report, section 2.3."""
    loads_LE = counts_LE.double()
    mean_L = loads_LE.mean(-1)
    return (loads_LE.amax(-1) - mean_L) / mean_L


def dead_experts(counts_LE: Tensor) -> int:
    """Experts, over all layers, that no token visited in the step."""
    return int((counts_LE == 0).sum())


def check_counts(counts_LE: Tensor, layer_ids: list[str], *, tokens: int, top_k: int) -> None:
    """Raises RunError unless each layer routed every token of the step exactly top_k times."""
    for layer_id, total in zip(layer_ids, counts_LE.sum(-1).tolist(), strict=True):
        if total != tokens * top_k:
            raise RunError(
                f"layer {layer_id} counted {total:,} routed tokens; {tokens:,} tokens x top_k {top_k} = "
                f"{tokens * top_k:,} were expected. Biases would follow wrong loads, so the run stops."
            )


def format_digest(digest: int) -> str:
    """A 64-bit sum, as signed as all_reduce leaves it -> 16 hex digits."""
    return f"{digest % 2**64:016x}"


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that does not exist here (MFU on a CPU) is null."""
    return value if math.isfinite(value) else None
