"""Applies a balancing rule to the MoE layers of a model.

L = MoE layers, E = experts.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: one kernel for many tensors, as torch.optim itself calls it.
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from train.balance.panels import balance_panels
from train.balance.rules.base import BalanceRule

if TYPE_CHECKING:
    from train.afmoe.moe import MoE


class Balancer:
    """Applies the configured rule to the MoE layers of a model, all layers at once."""

    def __init__(self, config: BalanceRule, layers: list[MoE]):
        self.config = config
        self.layers = layers
        self._previous_LE = torch.stack([torch.zeros_like(layer.bias_momentum_E) for layer in layers])
        """What the biases changed by in the step before the last one; 0 before the first update."""

    def weigh_sequences(self, num_sequences: int) -> None:
        """Makes the balance loss of a step the mean over its `num_sequences` sequences, on however many ranks."""
        for layer in self.layers:
            layer.balance_loss_weight = self.config.sequence_loss_weight / num_sequences

    @torch.no_grad()
    def update_biases_(self, counts_LE: Tensor) -> None:
        """counts_LE: of the whole step, summed over all ranks. The same on every rank, so the biases are too."""
        biases = [layer.expert_bias_E for layer in self.layers]
        changes = [layer.bias_momentum_E for layer in self.layers]
        self._previous_LE = torch.stack(changes)
        change_LE = self.config.change(counts_LE, self._previous_LE)
        torch._foreach_add_(biases, change_LE.unbind())
        torch._foreach_copy_(changes, change_LE.unbind())

    def panels(self, counts_LE: Tensor) -> dict[str, Tensor]:
        """Panel -> float [L], on the host. counts_LE: of the step whose update was the last, on the host."""
        of_every_rule = balance_panels(
            counts_LE,
            bias_LE=torch.stack([layer.expert_bias_E for layer in self.layers]).cpu(),
            change_LE=torch.stack([layer.bias_momentum_E for layer in self.layers]).cpu(),
            previous_LE=self._previous_LE.cpu(),
        )
        return of_every_rule | self.config.panels(counts_LE)
