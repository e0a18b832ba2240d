"""train/loss.py against a hand-worked token and torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX

from train.loss import CrossEntropyZLoss, cross_entropy_and_z

ATOL = 1e-6  # float32, sums over a few dozen terms of order 1


def make_batch() -> tuple[Tensor, Tensor]:
    """Logits [T, V] with gradient, labels [T] of which three have no target."""
    generator = torch.Generator().manual_seed(0)
    logits_TV = torch.randn(13, 7, generator=generator).requires_grad_()
    labels_T = torch.randint(7, (13,), generator=generator)
    labels_T[[0, 5, 12]] = IGNORE_INDEX
    return logits_TV, labels_T


def test_one_token_by_hand() -> None:
    # logits (ln 1, ln 3), label 0: sum of exp = 4, so p = (1/4, 3/4), ce = ln 4, z = (ln 4)^2
    logits_TV = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)
    cross_entropy, z = cross_entropy_and_z(logits_TV, torch.tensor([0]))
    assert cross_entropy.item() == pytest.approx(math.log(4), abs=ATOL)
    assert z.item() == pytest.approx(math.log(4) ** 2, abs=ATOL)
    # d ce = (1/4 - 1, 3/4); d z = 2 ln 4 (1/4, 3/4)
    (cross_entropy + z).backward()
    assert logits_TV.grad is not None
    expected = torch.tensor([[-0.75 + 0.5 * math.log(4), 0.75 + 1.5 * math.log(4)]])
    torch.testing.assert_close(logits_TV.grad, expected, atol=ATOL, rtol=0)


def test_sums_equal_torchs() -> None:
    logits_TV, labels_T = make_batch()
    cross_entropy, z = cross_entropy_and_z(logits_TV, labels_T)
    expected_z = (torch.logsumexp(logits_TV[labels_T != IGNORE_INDEX], -1) ** 2).sum()
    expected = F.cross_entropy(logits_TV, labels_T, reduction="sum", ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(cross_entropy, expected, atol=ATOL, rtol=ATOL)
    torch.testing.assert_close(z, expected_z, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize(("weight_ce", "weight_z"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_gradients_equal_autograds_through_torchs(weight_ce: float, weight_z: float) -> None:
    logits_TV, labels_T = make_batch()
    cross_entropy, z = cross_entropy_and_z(logits_TV, labels_T)
    (grad_TV,) = torch.autograd.grad(weight_ce * cross_entropy + weight_z * z, logits_TV)

    is_target_T = labels_T != IGNORE_INDEX
    reference = weight_ce * F.cross_entropy(logits_TV, labels_T, reduction="sum", ignore_index=IGNORE_INDEX)
    reference = reference + weight_z * (torch.logsumexp(logits_TV[is_target_T], -1) ** 2).sum()
    (expected_TV,) = torch.autograd.grad(reference, logits_TV)
    torch.testing.assert_close(grad_TV, expected_TV, atol=ATOL, rtol=0)
    assert not grad_TV[~is_target_T].any()


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits_TV, labels_T = make_batch()
    rounded_TV = logits_TV.detach().bfloat16()
    for got, expected in zip(
        cross_entropy_and_z(rounded_TV, labels_T), cross_entropy_and_z(rounded_TV.float(), labels_T), strict=True
    ):
        assert got.dtype == torch.float32
        assert got == expected


def test_the_loss_is_a_mean_over_the_tokens_of_all_ranks() -> None:
    logits_TV, labels_T = make_batch()
    loss = CrossEntropyZLoss.Config(z_loss_weight=0.5).build()
    cross_entropy, z = cross_entropy_and_z(logits_TV, labels_T)
    value, sums = loss(logits_TV[None], labels_T[None], global_valid_tokens=torch.tensor(40.0))
    torch.testing.assert_close(value, (cross_entropy + 0.5 * z) / 40, atol=ATOL, rtol=0)
    assert sums == {"cross_entropy": cross_entropy, "z": z}
    assert not sums["cross_entropy"].requires_grad


def test_a_batch_without_targets_has_loss_0_and_no_gradient() -> None:
    logits_TV, labels_T = make_batch()
    cross_entropy, z = cross_entropy_and_z(logits_TV, torch.full_like(labels_T, IGNORE_INDEX))
    (grad_TV,) = torch.autograd.grad(cross_entropy + z, logits_TV)
    assert cross_entropy == z == 0
    assert not grad_TV.any()
