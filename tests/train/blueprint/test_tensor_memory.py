"""train/blueprint/tensor_memory.py by hand."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

from train.blueprint.tensor_memory import TensorMemory


@pytest.mark.parametrize("mode", [nullcontext, FakeTensorMode])
def test_the_peak_by_hand(mode: type) -> None:
    with mode(), TensorMemory() as memory:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a.view(10, 100)[0]
        assert memory.peak_bytes == 4_000
        c = a.to(torch.bfloat16)  # + 2,000
        assert memory.peak_bytes == 6_000
        del a  # b holds its storage
        d = c.clone()  # + 2,000
        assert memory.peak_bytes == 8_000
        del b, c, d  # - 8,000
        torch.zeros(1500)
        assert memory.peak_bytes == 8_000
        torch.zeros(2500)
    assert memory.peak_bytes == 10_000


def test_what_autograd_keeps_counts() -> None:
    with TensorMemory() as memory:
        x = torch.zeros(1000, requires_grad=True)
        y = x.exp().sin()  # 4,000 bytes each; the sine keeps its argument for the backward pass
        assert memory.peak_bytes == 12_000
        y.neg()  # + 4,000, and gone
    assert memory.peak_bytes == 16_000
    with TensorMemory() as memory, torch.no_grad():
        x = torch.zeros(1000)
        y = x.exp().sin()
        y.neg()  # without exp(x)
    assert memory.peak_bytes == 12_000


def test_views_of_what_was_there_before_cost_nothing() -> None:
    before = torch.zeros(1000)
    with TensorMemory() as memory:
        view = before.view(10, 100).t()
        before.add_(1)
        assert memory.live_bytes == 0
        made = view.contiguous()  # 4,000 bytes
        made.t().add_(1)
        assert memory.live_bytes == 4_000
        del made
        assert (memory.live_bytes, memory.peak_bytes) == (0, 4_000)
