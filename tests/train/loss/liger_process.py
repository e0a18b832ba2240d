"""Runs loss.kernel=liger on small batches and saves what comes out: `python -m tests.train.loss.liger_process OUT.pt`.

A process of its own, because Triton decides at import whether it interprets kernels: with TRITON_INTERPRET=1 they run
on a CPU, step by step.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX

from tests.train.loss.loss_cases import make_batch
from train.loss.config import LossConfig
from train.loss.cross_entropy import CrossEntropyZLoss

Batch = tuple[Tensor, Tensor, Tensor]


class Case(NamedTuple):
    batch: Batch
    z_loss_weight: float


class Result(NamedTuple):
    figures: dict[str, Tensor]
    with_gradient: list[str]
    gradients: tuple[Tensor, ...]


def cases() -> dict[str, Case]:
    hidden_TD, head_VD, labels_T = make_batch()
    no_labels = (hidden_TD, head_VD, torch.full_like(labels_T, IGNORE_INDEX))
    return {
        "z-loss": Case(make_batch(), 0.3),
        "no z-loss": Case(make_batch(), 0.0),
        "bfloat16": Case(make_batch(torch.bfloat16), 0.3),
        "no labels": Case(no_labels, 0.3),
        "ties": Case(tied_batch(), 0.0),
    }


def tied_batch() -> Batch:
    """Logits (1, 0, 1) twice, with each of the two largest as the label."""
    return torch.ones(2, 1, requires_grad=True), torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([0, 2])


def result_of(case: Case, device: str) -> Result:
    hidden_TD, head_VD, labels_T = (tensor.detach().to(device) for tensor in case.batch)
    operands = hidden_TD.requires_grad_(), head_VD.requires_grad_()
    loss = CrossEntropyZLoss.Config(section=LossConfig(kernel="liger", z_loss_weight=case.z_loss_weight)).build()
    figures = loss(hidden_TD[None], head_VD, labels_T[None])
    gradients = torch.autograd.grad(figures.total / 40, operands)
    by_name = figures._asdict()
    return Result(
        figures={name: figure.detach().cpu() for name, figure in by_name.items()},
        with_gradient=[name for name, figure in by_name.items() if figure.requires_grad],
        gradients=tuple(gradient.cpu() for gradient in gradients),
    )


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.save({name: tuple(result_of(case, device)) for name, case in cases().items()}, sys.argv[1])
