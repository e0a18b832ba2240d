"""Load balancing without an auxiliary loss: each layer's selection bias follows the load of its experts.

Rules are pure functions of the counts of one optimizer step, all layers at once; `Balancer` applies one to a model.

L = MoE layers, E = experts.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: one kernel for many tensors, as torch.optim itself calls it.
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from train import metrics
from train.alarm import AlarmConfig

if TYPE_CHECKING:
    from train.model.moe import MoE


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


Rule: TypeAlias = Callable[[Tensor, Tensor, BalanceConfig], Tensor]
"""(counts_LE, previous_LE, config) -> change_LE.

counts_LE: tokens that each expert got in this step, over all ranks and accumulation steps; no layer without any.
previous_LE, change_LE: what the biases changed by in the step before, and what they are to change by now; float32.
"""


def smebu(counts_LE: Tensor, previous_LE: Tensor, config: BalanceConfig) -> Tensor:
    """Relative load gap -> soft clamp -> speed -> centring -> momentum, which starts at 0 and has no bias correction.

    Source: Trinity report, section 2.3 ("soft-clamped momentum expert bias updates"), for Large.
    """
    delta_LE = config.speed * soft_clamp(counts_LE, config)
    return _with_momentum(_centred(delta_LE), previous_LE, config)


def linear(counts_LE: Tensor, previous_LE: Tensor, config: BalanceConfig) -> Tensor:
    """SMEBU without its clamp: as strong where loads are nearly even, without a limit where they are not.

    Trinity's report says of such a rule that it was fast at first and unstable later (section 2.3).
    """
    delta_LE = config.speed * config.sharpness * relative_gaps(counts_LE)
    return _with_momentum(_centred(delta_LE), previous_LE, config)


def sign(counts_LE: Tensor, previous_LE: Tensor, config: BalanceConfig) -> Tensor:
    """A step of one size for every expert, towards the mean load.

    The report re-centres the bias instead of the change: the same where the bias starts with mean 0, as in training.
    Source: Trinity report, section 2.3, for Nano and Mini; after arXiv 2408.15664.
    """
    return _centred(config.speed * torch.sign(relative_gaps(counts_LE)))


RULES: dict[str, Rule] = {"smebu": smebu, "sign": sign, "linear": linear}
"""`balance.kind` -> rule."""


def soft_clamp(counts_LE: Tensor, config: BalanceConfig) -> Tensor:
    """SMEBU's view of the loads, float32 [L, E]: near -1 and 1 it no longer tells a large gap from a larger one."""
    return torch.tanh(config.sharpness * relative_gaps(counts_LE))


def relative_gaps(counts_LE: Tensor) -> Tensor:
    """(mean load - load) / mean load, float32 [L, E]: 1 for an expert without tokens, 0 for one with its share."""
    mean_L1 = counts_LE.float().mean(-1, keepdim=True)
    return (mean_L1 - counts_LE) / mean_L1


def _centred(delta_LE: Tensor) -> Tensor:
    """Only differences between biases matter: without this their mean would drift."""
    return delta_LE - delta_LE.mean(-1, keepdim=True)


def _with_momentum(delta_LE: Tensor, previous_LE: Tensor, config: BalanceConfig) -> Tensor:
    return config.momentum * previous_LE + (1 - config.momentum) * delta_LE


class Balancer:
    """Applies the configured rule to the MoE layers of a model, all layers at once."""

    def __init__(self, config: BalanceConfig, layers: list[MoE]):
        self.config = config
        self.layers = layers
        self._previous_LE = torch.zeros(1, 1)
        """What the biases changed by in the step before the last."""

    def weigh_sequences(self, num_sequences: int) -> None:
        """Makes the balance loss of a step the mean over its `num_sequences` sequences, on however many ranks."""
        for layer in self.layers:
            layer.balance_loss_weight = self.config.sequence_loss_weight / num_sequences

    @torch.no_grad()
    def update_biases_(self, counts_LE: Tensor) -> None:
        """counts_LE: of the whole step, summed over all ranks. The same on every rank, so the biases are too."""
        if self.config.kind == "none":
            return
        biases = [layer.expert_bias_E for layer in self.layers]
        changes = [layer.bias_momentum_E for layer in self.layers]
        self._previous_LE = torch.stack(changes)
        change_LE = RULES[self.config.kind](counts_LE, self._previous_LE, self.config)
        torch._foreach_add_(biases, change_LE.unbind())
        torch._foreach_copy_(changes, change_LE.unbind())

    def panels(self, counts_LE: Tensor) -> dict[str, Tensor]:
        """Panel -> float [L], on the host. counts_LE: of the step whose update was the last, on the host."""
        panels = metrics.balance_panels(
            counts_LE,
            bias_LE=torch.stack([layer.expert_bias_E for layer in self.layers]).cpu(),
            change_LE=torch.stack([layer.bias_momentum_E for layer in self.layers]).cpu(),
            previous_LE=self._previous_LE.cpu(),
        )
        if self.config.kind == "smebu":
            panels["saturated_clamps"] = metrics.saturated(soft_clamp(counts_LE, self.config))
        return panels
