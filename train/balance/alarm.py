"""The collapse alarm: experts that stay overloaded or unused. Counts go in, what to say about them comes out.

L = MoE layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.balance.measures import dead_experts, max_violation
from train.balance.rules.base import AlarmConfig

NAMED = 5
"""The most layers that a message names, and the most experts without tokens of each."""


class CollapseAlarm:
    """Watches the loads step by step. A resumed run counts its steps from 0 again."""

    def __init__(self, config: AlarmConfig, layer_ids: Sequence[str]):
        self._config = config
        self._layer_ids = layer_ids
        self._streak_L = torch.zeros(len(layer_ids), dtype=torch.int64)

    def observe(self, counts_LE: Tensor) -> str | None:
        """The warning after this step, or None: it names layers that have been collapsed for `steps` steps, and names
        them again every `steps`.

        counts_LE: int64, tokens that each expert got in the step.
        """
        self._streak_L = (self._streak_L + 1) * is_collapsed(counts_LE, self._config)
        is_due_L = (self._streak_L > 0) & (self._streak_L % self._config.steps == 0)
        layers = is_due_L.nonzero().flatten().tolist()
        if not layers:
            return None
        messages = [f"layer {self._layer_ids[layer]}: {describe(counts_LE[layer])}" for layer in layers[:NAMED]]
        more = [f"and {len(layers) - NAMED} more layers"] if len(layers) > NAMED else []
        return f"experts collapsed (steps in a row: {int(self._streak_L.max())}); " + "; ".join(messages + more)


def is_collapsed(counts_LE: Tensor, config: AlarmConfig) -> Tensor:
    """bool [L]: layers beyond a threshold."""
    collapsed_L = torch.zeros(len(counts_LE), dtype=torch.bool)
    if config.max_violation is not None:
        collapsed_L |= max_violation(counts_LE) > config.max_violation
    if config.dead_share is not None:
        collapsed_L |= dead_experts(counts_LE) > config.dead_share * counts_LE.shape[-1]
    return collapsed_L


def describe(counts_E: Tensor) -> str:
    """The loads of one layer in words: its busiest experts, and those without a token."""
    largest, busiest = counts_E.topk(min(2, len(counts_E)))
    shares = (100 * largest.double() / counts_E.sum()).tolist()
    busy = ", ".join(f"expert {e} has {share:.0f} %" for e, share in zip(busiest.tolist(), shares, strict=True))
    dead = (counts_E == 0).nonzero().flatten().tolist()
    named = ", ".join(map(str, dead[:NAMED])) + (", ..." if len(dead) > NAMED else "")
    idle = f", {len(dead)} of {len(counts_E)} have none ({named})" if dead else ""
    return f"MaxVio {float(max_violation(counts_E[None])):.2f}; {busy} of its tokens{idle}"
