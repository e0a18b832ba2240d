"""AdamW, torch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from torch.optim import AdamW, Optimizer

from train.optim.base import DecayRate, OptimizerOptions


@dataclass(kw_only=True, slots=True)
class AdamWConfig(OptimizerOptions):
    """The `optimizer.adamw` section."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate: Nano 3e-4, Mini and Large 2e-4 (Trinity report)."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled. The report is silent."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.95)
    """Decay of the first and the second moment. The report is silent; these are Dion's."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""

    optimizer: ClassVar[type[Optimizer]] = AdamW
    num_states: ClassVar[int] = 2
    has_kernels: ClassVar[bool] = True
