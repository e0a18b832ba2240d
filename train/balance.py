"""Load balancing without an auxiliary loss: each layer's selection bias follows the load of its experts.

Rules are pure functions of the counts of one optimizer step, [layers, E] at once; `Balancer` applies one to a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from train import metrics
from train.alarm import AlarmConfig

if TYPE_CHECKING:
    from train.model.moe import MoE


@dataclass(kw_only=True, slots=True)
class BalanceConfig:
    """The `balance` section."""

    kind: Literal["smebu", "sign", "none"]
    """Rule that moves the biases: `smebu` (Trinity Large), `sign` (Nano and Mini), or `none`, which leaves them."""
    speed: float = 5e-4
    """Largest bias change per step (lambda). SMEBU: 5e-4 (Trinity report, section 2.3); sign: 1e-3 (published
    configs)."""
    sharpness: float = 2.0
    """SMEBU: factor on the relative load gap before tanh (kappa). Trinity report, section 2.3."""
    momentum: float = 0.5
    """SMEBU: share of the previous change that is kept (beta). Trinity report, section 2.3."""
    sequence_loss_weight: float = 0.0
    """Weight (alpha) of the sequence-wise balance loss: mean over the sequences of a batch, layers summed.
    Trinity Large: 1e-4 (report, section 2.3)."""
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    """When to warn that experts have collapsed, and whether to stop then."""

    def __post_init__(self) -> None:
        for name in ("speed", "sharpness", "sequence_loss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 (1 excluded), got {self.momentum}")


def smebu(counts_LE: Tensor, momentum_LE: Tensor, *, speed: float, sharpness: float, momentum: float) -> Tensor:
    """New momentum, float32 [layers, E], which is also what the biases change by.

    counts_LE: tokens each expert got in this step, over all ranks and accumulation steps; momentum_LE: float32.
    Relative load gap -> soft clamp -> speed -> centring -> momentum, which starts at 0 and has no bias correction.
    Source: Trinity report, section 2.3 ("soft-clamped momentum expert bias updates").
    """
    mean_L1 = counts_LE.float().mean(-1, keepdim=True)
    gap_LE = (mean_L1 - counts_LE) / mean_L1
    delta_LE = speed * torch.tanh(sharpness * gap_LE)
    delta_LE = delta_LE - delta_LE.mean(-1, keepdim=True)
    return momentum * momentum_LE + (1 - momentum) * delta_LE


def sign_rule(counts_LE: Tensor, bias_LE: Tensor, *, speed: float) -> Tensor:
    """New biases, float32 [layers, E]: a fixed step towards the mean load, then re-centred.

    Source: Trinity report, section 2.3, for Nano and Mini; after arXiv 2408.15664.
    """
    mean_L1 = counts_LE.float().mean(-1, keepdim=True)
    bias_LE = bias_LE + speed * torch.sign(mean_L1 - counts_LE)
    return bias_LE - bias_LE.mean(-1, keepdim=True)


class Balancer:
    """Applies the configured rule to the MoE layers of a model, all layers at once."""

    def __init__(self, config: BalanceConfig, layers: list[MoE]):
        self.config = config
        self.layers = layers

    def weigh_sequences(self, num_sequences: int) -> None:
        """Makes the balance loss of a step the mean over its `num_sequences` sequences, on however many ranks."""
        for layer in self.layers:
            layer.balance_loss_weight = self.config.sequence_loss_weight / num_sequences

    @torch.no_grad()
    def update_biases_(self, counts_LE: Tensor) -> None:
        """counts_LE: of the whole step, summed over all ranks. The same on every rank, so the biases are too."""
        config = self.config
        if config.kind == "none" or not self.layers:
            return
        bias_LE = torch.stack([layer.expert_bias_E for layer in self.layers])
        momentum_LE = torch.stack([layer.bias_momentum_E for layer in self.layers])
        if config.kind == "sign":
            bias_LE = sign_rule(counts_LE, bias_LE, speed=config.speed)
        else:
            momentum_LE = smebu(
                counts_LE, momentum_LE, speed=config.speed, sharpness=config.sharpness, momentum=config.momentum
            )
            bias_LE = bias_LE + momentum_LE
        for layer, bias_E, momentum_E in zip(self.layers, bias_LE, momentum_LE, strict=True):
            layer.expert_bias_E.copy_(bias_E)
            layer.bias_momentum_E.copy_(momentum_E)

    def panels(self, counts_LE: Tensor) -> dict[str, Tensor]:
        """Panel -> float [layers], on the host. counts_LE: of the step whose update was the last, on the host."""
        bias_LE = torch.stack([layer.expert_bias_E for layer in self.layers]).cpu()
        momentum_LE = torch.stack([layer.bias_momentum_E for layer in self.layers]).cpu()
        panels = metrics.balance_panels(counts_LE, bias_LE=bias_LE, change_LE=momentum_LE)
        if self.config.kind == "smebu":
            panels["saturated_clamps"] = metrics.saturated_clamps(counts_LE, sharpness=self.config.sharpness)
        return panels
