"""train/loss.py against a hand-worked token and torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX

from train.config import LossConfig
from train.loss import CrossEntropyZLoss, cross_entropy_and_z, linear_loss

ATOL = 1e-6  # float32, sums over a few dozen terms of order 1
T, D, V = 13, 5, 7
CHUNKS = [1, 4, 13, 100]  # of 13 tokens: single ones, a short last one, all, more than all


def make_batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [T, D] and head [V, D] with gradient; labels [T], of which three have no target."""
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(T, D, generator=generator).to(dtype).requires_grad_()
    head_VD = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    labels_T = torch.randint(V, (T,), generator=generator)
    labels_T[[0, 5, 12]] = IGNORE_INDEX
    return hidden_TD, head_VD, labels_T


def torchs(hidden_TD: Tensor, head_VD: Tensor, labels_T: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums by torch's functions, with all logits at once."""
    logits_TV = (hidden_TD @ head_VD.T).float()
    z = (torch.logsumexp(logits_TV[labels_T != IGNORE_INDEX], -1) ** 2).sum()
    return F.cross_entropy(logits_TV, labels_T, reduction="sum", ignore_index=IGNORE_INDEX), z


def test_one_token_by_hand() -> None:
    # logits (ln 1, ln 3), label 0: sum of exp = 4, so p = (1/4, 3/4), ce = ln 4, z = (ln 4)^2
    logits_CV = torch.tensor([[0.0, math.log(3.0)]])
    cross_entropy, z, gradient_CV = cross_entropy_and_z(
        logits_CV, torch.tensor([0]), z_loss_weight=1.0, with_gradient=True
    )
    assert cross_entropy.item() == pytest.approx(math.log(4), abs=ATOL)
    assert z.item() == pytest.approx(math.log(4) ** 2, abs=ATOL)
    # d ce = (1/4 - 1, 3/4); d z = 2 ln 4 (1/4, 3/4)
    expected = torch.tensor([[-0.75 + 0.5 * math.log(4), 0.75 + 1.5 * math.log(4)]])
    torch.testing.assert_close(gradient_CV, expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("chunk_tokens", CHUNKS)
def test_sums_equal_torchs(chunk_tokens: int) -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    total, cross_entropy, z = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.5, chunk_tokens=chunk_tokens)
    expected, expected_z = torchs(hidden_TD, head_VD, labels_T)
    torch.testing.assert_close(cross_entropy, expected, atol=0, rtol=ATOL)
    torch.testing.assert_close(z, expected_z, atol=0, rtol=ATOL)
    torch.testing.assert_close(total, expected + 0.5 * expected_z, atol=0, rtol=ATOL)
    assert (total.requires_grad, cross_entropy.requires_grad, z.requires_grad) == (True, False, False)


@pytest.mark.parametrize("chunk_tokens", CHUNKS)
@pytest.mark.parametrize("z_loss_weight", [0.0, 0.3])
def test_gradients_equal_autograds_through_torchs(chunk_tokens: int, z_loss_weight: float) -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    total, _, _ = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=z_loss_weight, chunk_tokens=chunk_tokens)
    gradients = torch.autograd.grad(total / 40, (hidden_TD, head_VD))
    cross_entropy, z = torchs(hidden_TD, head_VD, labels_T)
    expected = torch.autograd.grad((cross_entropy + z_loss_weight * z) / 40, (hidden_TD, head_VD))
    torch.testing.assert_close(gradients, expected, atol=ATOL, rtol=0)
    assert not gradients[0][labels_T == IGNORE_INDEX].any()


def test_a_loss_that_scales_z_with_the_number_of_chunks_would_be_seen() -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    cross_entropy, z = torchs(hidden_TD, head_VD, labels_T)
    total = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.5, chunk_tokens=4).total
    mutant = cross_entropy + 0.5 * z / 4
    assert abs(total - mutant) > 0.1 * abs(total)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    hidden_TD, head_VD, labels_T = make_batch(torch.bfloat16)
    got = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.0, chunk_tokens=4)
    assert got.cross_entropy.dtype == got.z.dtype == torch.float32
    torch.testing.assert_close((got.cross_entropy, got.z), torchs(hidden_TD, head_VD, labels_T), atol=0, rtol=ATOL)


def test_the_gradient_of_a_bfloat16_head_is_summed_over_chunks_in_float32() -> None:
    hidden_TD, head_VD, labels_T = make_batch(torch.bfloat16)
    hidden_TD, labels_T = hidden_TD.detach().repeat(64, 1), labels_T.repeat(64)

    def head_gradient(chunk_tokens: int) -> Tensor:
        loss = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.0, chunk_tokens=chunk_tokens)
        return torch.autograd.grad(loss.total, head_VD)[0].float()

    # 832 chunks of one token. A running sum in bfloat16 would lose terms of 2^-9 of the sum, and be off by tens of
    # percent; each term is rounded to bfloat16, and the result once: a few times 2^-9 of the largest entry.
    pieces, whole = head_gradient(1), head_gradient(len(labels_T))
    assert (pieces - whole).abs().max() < 4 * 2**-9 * whole.abs().max()


def test_without_gradients_none_are_made() -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    with torch.no_grad():
        total, cross_entropy, _ = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.0, chunk_tokens=4)
    assert not total.requires_grad
    assert total == cross_entropy


def test_a_batch_without_targets_has_loss_0_and_no_gradient() -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    total = linear_loss(hidden_TD, head_VD, torch.full_like(labels_T, IGNORE_INDEX), z_loss_weight=1.0, chunk_tokens=4)
    gradients = torch.autograd.grad(total.total, (hidden_TD, head_VD))
    assert total.total == 0
    assert not any(gradient.any() for gradient in gradients)


def test_the_training_loss_takes_batches() -> None:
    hidden_TD, head_VD, labels_T = make_batch()
    loss = CrossEntropyZLoss.Config(section=LossConfig(z_loss_weight=0.5, chunk_tokens=4)).build()
    expected = linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.5, chunk_tokens=4)
    assert loss(hidden_TD[None], head_VD, labels_T[None]) == expected
