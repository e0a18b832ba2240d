"""No rule: the control of a balancing experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from train.balance.rules.base import BalanceRule


@dataclass(kw_only=True, slots=True)
class NoRule(BalanceRule):
    """Leaves the biases as they are."""

    kind: Literal["none"] = "none"

    def change(self, counts_LE: Tensor, previous_LE: Tensor) -> Tensor:
        return torch.zeros_like(previous_LE)
