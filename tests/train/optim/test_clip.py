"""train/optim/clip.py on one rank: hand-worked norms. On four: test_sharded.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from train.optim.clip import clip_grad_norm_


def parameter(gradient: list[float] | None, dtype: torch.dtype = torch.float32) -> Tensor:
    param = torch.zeros(len(gradient or [0]), dtype=dtype, requires_grad=True)
    param.grad = None if gradient is None else torch.tensor(gradient, dtype=dtype)
    return param


def clip(*parameters: Tensor, max_norm: float) -> Tensor:
    return clip_grad_norm_(parameters, max_norm=max_norm, shard_group=None)


def test_hand_worked_norm_of_all_gradients_together() -> None:
    a, b = parameter([3.0]), parameter([0.0, 4.0])
    assert clip(a, b, max_norm=10.0).item() == 5.0  # sqrt(9 + 16)


def test_hand_worked_clipping_keeps_the_direction() -> None:
    a, b = parameter([3.0]), parameter([0.0, 4.0])
    clip(a, b, max_norm=1.0)
    # 3 / 5 and 4 / 5; rel: the 1e-6 that is added to the norm, as torch's own clipping does
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.tolist() == pytest.approx([0.6], rel=1e-6)
    assert b.grad.tolist() == pytest.approx([0.0, 0.8], rel=1e-6)


def test_torch_clips_alike() -> None:
    ours, theirs = ([parameter([0.1, -7.0]), parameter([2.5, 1e-3, -0.3])] for _ in range(2))
    norm = clip(*ours, max_norm=2.0)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs, 2.0))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))  # type: ignore[arg-type]


def test_a_gradient_below_the_limit_stays_bitwise() -> None:
    a = parameter([0.1, -0.7])
    before = a.grad.clone()  # type: ignore[union-attr]
    clip(a, max_norm=1.0)
    assert torch.equal(a.grad, before)  # type: ignore[arg-type]


def test_a_parameter_without_a_gradient_counts_nothing() -> None:
    assert clip(parameter(None), parameter([2.0]), max_norm=10.0).item() == 2.0


def test_the_norm_of_bfloat16_gradients_is_float32() -> None:
    # 257 ones: bfloat16 rounds the sum of squares to 256, and the norm to 16
    norm = clip(parameter([1.0] * 257, torch.bfloat16), max_norm=100.0)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(math.sqrt(257), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(bad: float) -> None:
    assert not clip(parameter([1.0]), parameter([bad]), max_norm=1.0).isfinite()
