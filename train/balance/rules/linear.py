"""SMEBU without its clamp: a control, not a recipe. L = MoE layers, E = experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from train.balance.rules.base import centred, relative_gaps
from train.balance.rules.momentum import MomentumRule


@dataclass(kw_only=True, slots=True)
class LinearRule(MomentumRule):
    """As strong as SMEBU where loads are nearly even, without a limit where they are not: no largest change.

    Trinity's report says of such a rule that it was fast at first and unstable later (section 2.3).
    """

    kind: Literal["linear"] = "linear"

    def change(self, counts_LE: Tensor, previous_LE: Tensor) -> Tensor:
        delta_LE = self.speed * self.sharpness * relative_gaps(counts_LE)
        return self.with_momentum(centred(delta_LE), previous_LE)
