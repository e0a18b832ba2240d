"""Weights at step 0: a function of the seed and of each weight's place in the whole model, never of the mesh.

They are drawn where they lie: one thread of a CPU takes minutes for a rank's part of Trinity Large. Each kind of device
has numbers of its own (of GPUs, each model: the streams of CUDA's generator follow the number of multiprocessors).
"""

from collections.abc import Iterator
from hashlib import blake2b
from math import ceil

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torchtitan.components.checkpointer.utils import canonical_fqn

BLOCK_ROWS = 256
"""Rows of a matrix that share a generator; part of the meaning of a seed, so never change it."""

CUT = 3.0
"""Truncation in standard deviations. Trinity report, section 2.2."""


@torch.no_grad()
def initialize_parameters_(model: nn.Module, *, std: float, seed: int) -> None:
    """Fills every parameter of `model`, plain or DTensor.

    Matrices: truncated normal(0, std), cut at 3 std. Gains: 1, except for the norm that closes each half of a layer,
    1/sqrt(layers) ("depth-scaled sandwich norm"). Source: Trinity report, section 2.2.
    """
    num_layers = len(list(model.get_submodule("layers").children()))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(num_layers**-0.5 if name.endswith("_post_norm.weight") else 1.0)
        else:
            _fill_trunc_normal_(parameter, name=canonical_fqn(name), std=std, seed=seed)


@torch.no_grad()
def leave_to_checkpoint_(model: nn.Module) -> None:
    """For weights that are read in a moment: drawing those of Trinity Large takes a rank minutes. What is not read
    after all stops the first step, as NaN."""
    for parameter in model.parameters():
        parameter.fill_(torch.nan)


def _fill_trunc_normal_(parameter: Tensor, *, name: str, std: float, seed: int) -> None:
    """Draws the part of the whole parameter that this rank holds, one block at a time."""
    local, offset = _local_part(parameter)
    rows = 1 if parameter.ndim == 3 else BLOCK_ROWS  # a block is an expert's matrix, or some rows of a matrix
    if not local.numel():
        return
    for block, wanted, held in _blocks(offset[0], local.shape[0], rows):
        size = min(rows, parameter.shape[0] - block * rows)
        values = torch.empty(size, *parameter.shape[1:], dtype=torch.float32, device=local.device)
        generator = torch.Generator(local.device).manual_seed(block_seed(seed, name, block))
        nn.init.trunc_normal_(values, std=std, a=-CUT * std, b=CUT * std, generator=generator)
        inner = tuple(slice(start, start + length) for start, length in zip(offset[1:], local.shape[1:], strict=True))
        local[held].copy_(values[(wanted, *inner)])


def _local_part(parameter: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """This rank's shard and the place of its first element in the whole tensor."""
    if not isinstance(parameter, DTensor):
        return parameter, (0,) * parameter.ndim
    _, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local(), tuple(offset)


def _blocks(first_row: int, num_rows: int, rows: int) -> Iterator[tuple[int, slice, slice]]:
    """(block, its rows that are wanted, where they go) for global rows first_row .. first_row + num_rows - 1."""
    end = first_row + num_rows
    for block in range(first_row // rows, ceil(end / rows)):
        start, stop = max(first_row, block * rows), min(end, (block + 1) * rows)
        yield block, slice(start - block * rows, stop - block * rows), slice(start - first_row, stop - first_row)


def block_seed(seed: int, name: str, block: int) -> int:
    """The seed of a block's generator. It depends on the name, so that a new parameter changes no other one."""
    return int.from_bytes(blake2b(f"{seed}/{name}/{block}".encode(), digest_size=8).digest(), "little") >> 1
