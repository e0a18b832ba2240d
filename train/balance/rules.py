"""Load balancing without an auxiliary loss: each layer's selection bias follows the load of its experts.

Rules are pure functions of the counts of one optimizer step, all layers at once; `Balancer` applies one to a model.

L = MoE layers, E = experts.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: one kernel for many tensors, as torch.optim itself calls it.
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from train.balance.config import BalanceConfig

if TYPE_CHECKING:
    pass


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
