"""Counts what a block of code does on one rank: flops of its matrix products, bytes that it receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

NO_TRAFFIC = ("barrier", "monitored_barrier_")


@dataclass
class Counts:
    """Of one rank."""

    flops: int = 0
    """Of matrix products, 2 m n k each."""
    received: int = 0
    """Bytes from other ranks."""


@contextmanager
def counted() -> Iterator[Counts]:
    """The counts of the block, complete at its end."""
    counts = Counts()
    with FlopCounterMode(display=False) as flops, _Received(counts):
        yield counts
    counts.flops = flops.get_total_flops()


class _Received(TorchDispatchMode):
    """Sees every collective as an operator of the namespace c10d. One that it does not know is an error."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and (name := func._opname) not in NO_TRAFFIC:
            self._counts.received += _RECEIVED[name](*args)
        return func(*args, **(kwargs or {}))


def _all_gather(outputs: list[list[Tensor]], inputs: list[Tensor], *_: Any) -> int:
    return sum(_size(tensor) for tensors in outputs for tensor in tensors) - sum(map(_size, inputs))


def _all_gather_single(output: Tensor, input_: Tensor, *_: Any) -> int:
    return _size(output) - _size(input_)


def _all_to_all_single(output: Tensor, _input: Tensor, group: torch.ScriptObject, counts: list[int], *_: Any) -> int:
    own = counts[dist.ProcessGroup.unbox(group).rank()]
    return _size(output) - own * output.element_size()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


_RECEIVED: dict[str, Callable[..., int]] = {
    "allgather_": _all_gather,
    "_allgather_base_": _all_gather_single,
    "alltoall_base_": _all_to_all_single,
}
"""Collective -> the bytes that this rank receives from others, of its arguments."""
