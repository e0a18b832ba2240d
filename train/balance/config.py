"""The `balance` section."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from train.balance.alarm import AlarmConfig


@dataclass(kw_only=True, slots=True)
class BalanceConfig:
    """The `balance` section."""

    kind: Literal["smebu", "sign", "linear", "none"]
    """Rule that moves the biases: `smebu` (Trinity Large), `sign` (Nano and Mini), `linear` (SMEBU without its clamp, a
    control), or `none`, which leaves them."""
    speed: float = 5e-4
    """Largest bias change per step, before centring (lambda); `linear` has no largest. SMEBU: 5e-4 (Trinity report,
    section 2.3); sign: 1e-3 (published configs)."""
    sharpness: float = 2.0
    """SMEBU and linear: factor on the relative load gap (kappa), in SMEBU before tanh. Trinity report, section 2.3."""
    momentum: float = 0.5
    """SMEBU and linear: share of the previous change that is kept (beta). Trinity report, section 2.3."""
    sequence_loss_weight: float = 0.0
    """Weight (alpha) of the sequence-wise balance loss: mean over the sequences of a batch, layers summed.
    Trinity Large: 1e-4 (report, section 2.3)."""
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    """When to warn that experts have collapsed, and whether to stop then."""

    def __post_init__(self) -> None:
        for name in ("speed", "sharpness", "sequence_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:  # nor NaN, which would make the choice of experts arbitrary
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 (1 excluded), got {self.momentum}")
