"""Many small figures over all ranks in one collective, and one copy to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def reduce_together(
    tensors: Sequence[Tensor], *, group: dist.ProcessGroup | None, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> list[Tensor]:
    """`tensors` over the ranks of `group` (None: this rank alone), float64 on the host, in their shapes.

    Sums of whole numbers are exact below 2^53.
    """
    packed = torch.cat([tensor.flatten().double() for tensor in tensors])
    if group is not None:
        dist.all_reduce(packed, op=op, group=group)
    parts = packed.cpu().split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
