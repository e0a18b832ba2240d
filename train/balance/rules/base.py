"""What every balance rule has. A new one is a file with its class, a line in kinds.py, and a file in configs/balance/.

BalanceRule           any rule
  MomentumRule        a rule that keeps a share of its last change (rules/momentum.py)

L = MoE layers, E = experts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(kw_only=True, slots=True)
class AlarmConfig:
    """The `balance.alarm` section: when a layer counts as collapsed. In Trinity Large's first run MaxVio was flat, then
    climbed, and losses stopped falling, says its report."""

    max_violation: float | None = 5.0
    """MaxVio of a layer beyond which it is overloaded; null: never. At most it can be experts / top_k - 1."""
    dead_share: float | None = 0.1
    """Share of a layer's experts that got no token in a step beyond which it is dying; null: never."""
    steps: int = 100
    """For how many steps in a row a layer must be beyond a threshold."""
    stop: bool = False
    """Whether the run then stops, on every rank."""

    def __post_init__(self) -> None:
        if self.max_violation is not None and not 0 <= self.max_violation < math.inf:
            raise ValueError(f"max_violation must be a number from 0 on, or null, got {self.max_violation}")
        if self.dead_share is not None and not 0 <= self.dead_share < 1:
            raise ValueError(f"dead_share must lie in 0..1 (1 excluded), or be null, got {self.dead_share}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(kw_only=True, slots=True)
class BalanceRule(ABC):
    """What every rule has: the settings that go with any of them, and the change that it makes of a step's loads."""

    speed: float = 5e-4
    """Bias change per step, before centring (lambda); the rules say whether it is the largest. `none` makes no change.
    Trinity Large, SMEBU: 5e-4 (report, section 2.3); Nano and Mini, sign: 1e-3 (published configs)."""
    sequence_loss_weight: float = 0.0
    """Weight (alpha) of the sequence-wise balance loss: mean over the sequences of a batch, layers summed.
    Trinity Large: 1e-4 (report, section 2.3)."""
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    """When to warn that experts have collapsed, and whether to stop then."""

    def __post_init__(self) -> None:
        check_not_negative(speed=self.speed, sequence_loss_weight=self.sequence_loss_weight)

    @abstractmethod
    def change(self, counts_LE: Tensor, previous_LE: Tensor) -> Tensor:
        """What each bias changes by in this step, float32 [L, E]. Pure.

        counts_LE: int64, tokens that each expert got in this step, over all ranks and accumulation steps; every layer
        has some. previous_LE: float32, what the biases changed by in the step before; 0 before the first.
        """

    def panels(self, counts_LE: Tensor) -> dict[str, Tensor]:
        """Panels of this rule alone, beside those of every rule (train/balance/panels.py): name -> float [L]. Pure."""
        return {}


def check_not_negative(**settings: float) -> None:
    """Raises ValueError for the first that is negative, infinite or NaN, which would make the choice of experts
    arbitrary."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")


def relative_gaps(counts_LE: Tensor) -> Tensor:
    """(mean load - load) / mean load, float32 [L, E]: 1 for an expert without tokens, 0 for one with its share."""
    mean_L1 = counts_LE.float().mean(-1, keepdim=True)
    return (mean_L1 - counts_LE) / mean_L1


def centred(delta_LE: Tensor) -> Tensor:
    """Less the mean of each layer. Only differences between biases matter: without this their mean would drift."""
    return delta_LE - delta_LE.mean(-1, keepdim=True)
