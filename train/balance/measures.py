"""Measures of how evenly a step used its experts, and of how its biases moved. Pure.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def max_violation(counts_LE: Tensor) -> Tensor:
    """MaxVio of each layer, float64 [L]: (largest load - mean load) / mean load. Trinity report, section 2.3."""
    loads_LE = counts_LE.double()
    mean_L = loads_LE.mean(-1)
    return (loads_LE.amax(-1) - mean_L) / mean_L


def load_entropy(counts_LE: Tensor) -> Tensor:
    """Entropy of the loads of each layer over that of even ones, float64 [L]: 1 even, 0 all on one expert."""
    share_LE = counts_LE.double() / counts_LE.sum(-1, keepdim=True)
    return -torch.xlogy(share_LE, share_LE).sum(-1) / math.log(counts_LE.shape[-1])


def dead_experts(counts_LE: Tensor) -> Tensor:
    """Experts of each layer that no token visited in the step, int64 [L]."""
    return (counts_LE == 0).sum(-1)


def bias_spread(bias_LE: Tensor) -> Tensor:
    """Largest selection bias less the smallest, [L]."""
    return bias_LE.amax(-1) - bias_LE.amin(-1)


def root_mean_square(values_LE: Tensor) -> Tensor:
    """Over the experts of each layer, [L]."""
    return values_LE.square().mean(-1).sqrt()


def reversals(change_LE: Tensor, previous_LE: Tensor) -> Tensor:
    """Share of a layer's biases that reverse: they move up after they moved down, or down after up, [L]."""
    return (change_LE * previous_LE < 0).double().mean(-1)


def recoil(change_LE: Tensor, previous_LE: Tensor) -> Tensor:
    """How much of its last change a bias takes back, in units of the bias, mean over the experts, [L].

    A bias that keeps its direction, or rests, takes nothing back; one that swings by d takes d back each time.
    """
    undone_LE = torch.minimum(change_LE.abs(), previous_LE.abs())
    return torch.where(change_LE * previous_LE < 0, undone_LE, 0.0).mean(-1)
