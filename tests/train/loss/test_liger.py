"""train/loss/liger.py against torch's functions: Liger's kernels, on a GPU if there is one, else interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.loss.liger_process import Result, cases
from tests.train.loss.loss_cases import plain_loss
from train.loss.sums import LossSums

RTOL = 1e-5  # float32; the kernel takes exp2 of logits times log2(e), on a GPU by an approximate instruction
GIVEN = ("total", "cross_entropy", "z", "correct")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    path = tmp_path_factory.mktemp("liger") / "results.pt"
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.train.loss.liger_process", str(path)]
    subprocess.run(command, env=os.environ | interpret, cwd=Path(__file__).parents[3], check=True)
    return {name: Result(*result) for name, result in torch.load(path).items()}


def torchs(name: str) -> tuple[LossSums, tuple[Tensor, ...]]:
    """Figures, and gradients of hidden states and head as result_of takes them."""
    (hidden_TD, head_VD, labels_T), z_loss_weight = cases()[name]
    figures = plain_loss(hidden_TD, head_VD.requires_grad_(), labels_T, z_loss_weight=z_loss_weight)
    return figures, torch.autograd.grad(figures.total / 40, (hidden_TD, head_VD))


@pytest.mark.parametrize("name", ["z-loss", "no z-loss", "no labels"])
def test_ligers_figures_and_gradients_are_torchs(results: dict[str, Result], name: str) -> None:
    figures, gradients = torchs(name)
    for key in GIVEN:
        torch.testing.assert_close(results[name].figures[key], getattr(figures, key).detach(), atol=0, rtol=RTOL)
    torch.testing.assert_close(results[name].gradients, gradients, atol=1e-6, rtol=RTOL)


def test_in_bfloat16_only_z_is_kept_with_8_bits(results: dict[str, Result]) -> None:
    figures, gradients = torchs("bfloat16")
    got = results["bfloat16"].figures
    torch.testing.assert_close(got["total"], figures.total.detach(), atol=0, rtol=RTOL)
    torch.testing.assert_close(got["z"], figures.z.detach(), atol=0, rtol=2**-7)  # each token and their sum: 2^-8
    torch.testing.assert_close(got["cross_entropy"] + 0.3 * got["z"], got["total"], atol=0, rtol=RTOL)
    for gradient, expected in zip(results["bfloat16"].gradients, gradients, strict=True):
        assert gradient.dtype == torch.bfloat16
        # the gradient of logits and the result keep 8 bits, and the interpreter cuts off the rest: 2^-7 each
        torch.testing.assert_close(gradient, expected, atol=2**-6 * expected.abs().max().item(), rtol=0)


def test_of_labels_that_share_the_largest_logit_liger_counts_the_first(results: dict[str, Result]) -> None:
    assert results["ties"].figures["correct"] == 1


def test_what_liger_does_not_measure_is_nan(results: dict[str, Result]) -> None:
    figures = results["z-loss"].figures
    assert [name for name, figure in figures.items() if figure.isnan()] == ["lse", "max_logit"]
    assert {figure.dtype for figure in figures.values()} == {torch.float32}


def test_only_ligers_total_has_a_gradient(results: dict[str, Result]) -> None:
    assert results["z-loss"].with_gradient == ["total"]
