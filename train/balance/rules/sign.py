"""The sign rule: that of Trinity Nano and Mini. L = MoE layers, E = experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from train.balance.rules.base import BalanceRule, centred, relative_gaps


@dataclass(kw_only=True, slots=True)
class SignRule(BalanceRule):
    """A step of one size, `speed`, for every expert, towards the mean load. It has no memory.

    The report re-centres the bias instead of the change: the same where the bias starts with mean 0, as in training.
    Source: Trinity report, section 2.3, for Nano and Mini; after arXiv 2408.15664.
    """

    kind: Literal["sign"] = "sign"

    def change(self, counts_LE: Tensor, previous_LE: Tensor) -> Tensor:
        return centred(self.speed * torch.sign(relative_gaps(counts_LE)))
