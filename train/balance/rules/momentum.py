"""What SMEBU and its control have in common: a factor on the gaps, and momentum.

L = MoE layers, E = experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from train.balance.rules.base import BalanceRule, check_not_negative


@dataclass(kw_only=True, slots=True)
class MomentumRule(BalanceRule):
    """A rule that keeps a share of its last change."""

    sharpness: float = 2.0
    """Factor on the relative load gap (kappa), in SMEBU before tanh. Trinity report, section 2.3."""
    momentum: float = 0.5
    """Share of the previous change that is kept (beta). Trinity report, section 2.3."""

    def __post_init__(self) -> None:
        BalanceRule.__post_init__(self)
        check_not_negative(sharpness=self.sharpness)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 (1 excluded), got {self.momentum}")

    def with_momentum(self, delta_LE: Tensor, previous_LE: Tensor) -> Tensor:
        """The change of this step, float32 [L, E]; momentum starts at 0 and has no bias correction."""
        return self.momentum * previous_LE + (1 - self.momentum) * delta_LE
