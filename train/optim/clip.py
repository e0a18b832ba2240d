"""Clips gradients by their global norm, on the shards themselves.

torchtitan's function works on DTensors, for which sharding rules are worked out tensor by tensor before the first step:
6 s for the 139 of the smoke model, and in proportion to the layers of a larger one.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: one kernel for many tensors, as torch.nn.utils calls it.
from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from train.optim.orthogonal.placement import local


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], *, max_norm: float, shard_group: dist.ProcessGroup | None) -> Tensor:
    """Scales the gradients down to a global L2 norm of `max_norm` where it is larger. Returns the norm, float32.

    shard_group: the ranks that together hold each gradient once (HSDP's `fsdp` axis: one replica of the model, with the
    experts of all its EP ranks); None where this rank holds them whole. The norm is the same on every rank.
    """
    grads = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    square = torch.stack(torch._foreach_norm(grads, 2, torch.float32)).square().sum()
    if shard_group is not None:
        dist.all_reduce(square, group=shard_group)
    norm = square.sqrt()
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
