"""The matrices that all optimizers of the benchmark step: those that Muon takes of a model, random, in two layouts.

Sharded is what HSDP and expert parallelism leave on a rank, by the engine's own code; whole is what DDP leaves: all of
each matrix on every rank, each expert a matrix of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from train.blueprint.sharded import blueprint
from train.optim.benchmark.bounds import Spread
from train.optim.groups import HIDDEN
from train.optim.orthogonal.placement import grid_of

if TYPE_CHECKING:
    from train.config.run import ModelSections

Named = list[tuple[str, Parameter]]


def hidden_parameters(sections: ModelSections) -> Named:
    """Those of the hidden matrices, as this rank of the process group holds them, without storage."""
    model = blueprint(sections.model, training=sections.training, parallelism=sections.parallelism)
    return [(name, param) for name, param in model.named_parameters() if re.search(HIDDEN, name)]


def sharded_parameters(shapes: Named) -> Named:
    """With random weights and gradients."""
    params = [(name, Parameter(_random(param))) for name, param in shapes]
    for _, param in params:
        param.grad = _random(param)
    return params


def whole_matrices(shapes: Named) -> list[Parameter]:
    """With random weights and gradients, the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    matrices = [Parameter(torch.randn(shape, generator=generator)) for shape in _whole_shapes(shapes)]
    for matrix in matrices:
        matrix.grad = torch.randn(matrix.shape, generator=generator)
    return matrices


def sharded_spread(shapes: Named) -> list[Spread]:
    """How the matrices lie as HSDP leaves them."""
    spread = []
    for name, param in shapes:
        grid, count = grid_of(name, param), param.shape[0] if param.ndim == 3 else 1
        rows, cols = param.shape[-2:]
        spread.append(Spread(count, rows, cols, num_shards=grid.shards.size, num_replicas=grid.replicas.size))
    return spread


def whole_spread(shapes: Named, num_ranks: int) -> list[Spread]:
    """How they lie as DDP leaves them."""
    counts = Counter(_whole_shapes(shapes))
    return [Spread(count, *shape, num_shards=1, num_replicas=num_ranks) for shape, count in counts.items()]


def _whole_shapes(shapes: Named) -> list[tuple[int, int]]:
    return [
        (param.shape[-2], param.shape[-1])
        for _, param in shapes
        for _ in range(param.shape[0] if param.ndim == 3 else 1)
    ]


def _random(like: Tensor) -> Tensor:
    """Sharded like a parameter, in real memory."""
    if not isinstance(like, DTensor):
        return torch.randn(like.shape)
    local = torch.randn(like.to_local().shape)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
