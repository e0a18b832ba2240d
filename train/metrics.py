"""Measures of a training step. Pure.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from train.errors import RunError

SATURATION = 0.95
"""A clamp counts as saturated from this share of its limit on."""

GROUPS = ("early", "middle", "late")
"""Thirds of the MoE layers; dashboards show these, not every layer."""

_REDUCTIONS = {"max_violation": torch.amax, "router_logit_max": torch.amax, "dead_experts": torch.sum}
"""Panel -> how the layers of a group become one number; the mean where nothing is said."""


def max_violation(counts_LE: Tensor) -> Tensor:
    """MaxVio of each layer, float64 [L]: (largest load - mean load) / mean load. Trinity report, section 2.3."""
    loads_LE = counts_LE.double()
    mean_L = loads_LE.mean(-1)
    return (loads_LE.amax(-1) - mean_L) / mean_L


def load_entropy(counts_LE: Tensor) -> Tensor:
    """Entropy of the loads of each layer over that of even ones, float64 [L]: 1 even, 0 all on one expert."""
    share_LE = counts_LE.double() / counts_LE.sum(-1, keepdim=True)
    return -torch.xlogy(share_LE, share_LE).sum(-1) / math.log(counts_LE.shape[-1])


def dead_experts(counts_LE: Tensor) -> Tensor:
    """Experts of each layer that no token visited in the step, int64 [L]."""
    return (counts_LE == 0).sum(-1)


def saturated(clamp_LE: Tensor) -> Tensor:
    """Share of a layer's clamps that are near their limits, -1 and 1, float64 [L]."""
    return (clamp_LE.abs() >= SATURATION).double().mean(-1)


def bias_spread(bias_LE: Tensor) -> Tensor:
    """Largest selection bias less the smallest, [L]."""
    return bias_LE.amax(-1) - bias_LE.amin(-1)


def root_mean_square(values_LE: Tensor) -> Tensor:
    """Over the experts of each layer, [L]."""
    return values_LE.square().mean(-1).sqrt()


def reversals(change_LE: Tensor, previous_LE: Tensor) -> Tensor:
    """Share of a layer's biases that turn round, moved up after they were moved down or the reverse, [L]."""
    return (change_LE * previous_LE < 0).double().mean(-1)


def recoil(change_LE: Tensor, previous_LE: Tensor) -> Tensor:
    """How much of its last change a bias takes back, in units of the bias, mean over the experts, [L].

    One that goes on, or rests, takes nothing back; one that goes to and fro by d takes d back each time.
    """
    undone_LE = torch.minimum(change_LE.abs(), previous_LE.abs())
    return torch.where(change_LE * previous_LE < 0, undone_LE, 0.0).mean(-1)


def router_panels(router_L3: Tensor, max_logit_L: Tensor, *, tokens: int, num_experts: int) -> dict[str, Tensor]:
    """Panel -> [L]: how large the router's logits are, and how sure it is.

    router_L3: sums over the `tokens` of a step (train/model/tally.py).
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
    """{group: {panel: value}} of the groups that have a layer."""
    groups: dict[str, dict[str, float]] = {}
    for name, values_L in panels.items():
        reduce = _REDUCTIONS.get(name, torch.mean)
        for group, part in zip(GROUPS, values_L.double().tensor_split(len(GROUPS)), strict=True):
            if len(part):
                groups.setdefault(group, {})[name] = float(reduce(part))
    return groups


def first_unsound_router(balance_loss_L: Tensor, layer_ids: Sequence[str]) -> dict[str, float]:
    """{"router of layer 3 (...)": nan} of the first layer whose scores are NaN, if there is one; others follow it.

    balance_loss_L: a mean over all scores of a layer, so that one that is NaN makes it NaN.
    """
    for layer, loss in zip(layer_ids, balance_loss_L.tolist(), strict=True):
        if not math.isfinite(loss):
            return {f"router of layer {layer} (its logits or its input)": loss}
    return {}


def check_counts(counts_LE: Tensor, layer_ids: Sequence[str], *, tokens: int, top_k: int) -> None:
    """Raises RunError unless each layer routed every token of the step exactly top_k times."""
    for layer_id, total in zip(layer_ids, counts_LE.sum(-1).tolist(), strict=True):
        if total != tokens * top_k:
            raise RunError(
                f"layer {layer_id} counted {total:,} routed tokens; {tokens:,} tokens x top_k {top_k} = "
                f"{tokens * top_k:,} were expected. Biases would follow wrong loads, so the run stops."
            )


def split_digest(digest: int) -> list[int]:
    """The halves of a 64-bit number; float64 sums them over up to 2^21 ranks without rounding."""
    return [digest >> 32 & 0xFFFF_FFFF, digest & 0xFFFF_FFFF]


def format_digest(halves: Sequence[float]) -> str:
    """Sums of halves -> 16 hex digits of the 64-bit sum."""
    high, low = map(int, halves)
    return f"{((high << 32) + low) % 2**64:016x}"


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that does not exist here (MFU on a CPU) is null."""
    return value if math.isfinite(value) else None
