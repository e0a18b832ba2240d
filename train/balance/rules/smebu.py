"""SMEBU, "soft-clamped momentum expert bias updates": the rule of Trinity Large.

Source: Trinity report, section 2.3. L = MoE layers, E = experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from train.balance.rules.base import centred, relative_gaps
from train.balance.rules.momentum import MomentumRule

SATURATION = 0.95
"""A clamp counts as saturated from this share of its limit on."""


@dataclass(kw_only=True, slots=True)
class SmebuRule(MomentumRule):
    """Relative load gap -> soft clamp -> speed, the largest change -> centring -> momentum."""

    kind: Literal["smebu"] = "smebu"

    def change(self, counts_LE: Tensor, previous_LE: Tensor) -> Tensor:
        delta_LE = self.speed * soft_clamp(counts_LE, sharpness=self.sharpness)
        return self.with_momentum(centred(delta_LE), previous_LE)

    def panels(self, counts_LE: Tensor) -> dict[str, Tensor]:
        """saturated_clamps: where it is large, the rule no longer sees how uneven the loads are."""
        return {"saturated_clamps": saturated(soft_clamp(counts_LE, sharpness=self.sharpness))}


def soft_clamp(counts_LE: Tensor, *, sharpness: float) -> Tensor:
    """SMEBU's view of the loads, float32 [L, E]: near -1 and 1 it hardly tells a large gap from a larger one."""
    return torch.tanh(sharpness * relative_gaps(counts_LE))


def saturated(clamp_LE: Tensor) -> Tensor:
    """Share of a layer's clamps that are near their limits, -1 and 1, float64 [L]."""
    return (clamp_LE.abs() >= SATURATION).double().mean(-1)
