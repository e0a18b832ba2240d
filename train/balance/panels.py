"""Panels of balance: measures of each layer, and of thirds of the layers for dashboards. Pure.

L = MoE layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from train.balance.measures import (
    bias_spread,
    dead_experts,
    load_entropy,
    max_violation,
    recoil,
    reversals,
    root_mean_square,
)

GROUPS = ("early", "middle", "late")
"""Thirds of the MoE layers; dashboards show these, not every layer."""


_REDUCTIONS = {"max_violation": torch.amax, "router_logit_max": torch.amax, "dead_experts": torch.sum}
"""Panel -> how the layers of a group become one number; the mean for all others."""


def router_panels(router_L3: Tensor, max_logit_L: Tensor, *, tokens: int, num_experts: int) -> dict[str, Tensor]:
    """Panel -> [L]: how large the router's logits are, and how sure it is.

    router_L3: sums over the `tokens` of a step (train/afmoe/tally.py).
    """
    sum_L, square_sum_L, confidence_L = router_L3.unbind(-1)
    mean_L = sum_L / (tokens * num_experts)
    variance_L = square_sum_L / (tokens * num_experts) - mean_L**2
    return {
        "router_logit_max": max_logit_L,
        "router_logit_mean": mean_L,
        "router_logit_std": variance_L.clamp(min=0).sqrt(),  # rounding may take it below 0
        "routing_confidence": confidence_L / tokens,
    }


def balance_panels(counts_LE: Tensor, *, bias_LE: Tensor, change_LE: Tensor, previous_LE: Tensor) -> dict[str, Tensor]:
    """Panel -> [L]: the loads of a step, and the selection biases after it.

    change_LE: what the rule added to the biases in this step (SMEBU's momentum); previous_LE: in the one before.
    """
    return {
        "max_violation": max_violation(counts_LE),
        "load_entropy": load_entropy(counts_LE),
        "dead_experts": dead_experts(counts_LE),
        "bias_spread": bias_spread(bias_LE),
        "bias_change": root_mean_square(change_LE),
        "bias_reversals": reversals(change_LE, previous_LE),
        "bias_recoil": recoil(change_LE, previous_LE),
    }


def by_layer(panels: Mapping[str, Tensor], layer_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """{panel: {layer: value}}."""
    return {name: dict(zip(layer_ids, values_L.tolist(), strict=True)) for name, values_L in panels.items()}


def by_group(panels: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """{group: {panel: value}} of the groups that have a layer: a model may have fewer than three."""
    groups: dict[str, dict[str, float]] = {}
    for name, values_L in panels.items():
        reduce = _REDUCTIONS.get(name, torch.mean)
        for group, part in zip(GROUPS, values_L.double().tensor_split(len(GROUPS)), strict=True):
            if len(part):
                groups.setdefault(group, {})[name] = float(reduce(part))
    return groups
