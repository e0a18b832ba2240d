"""Which rank writes and reads what, where several hold the same values. Every rank derives it alone.

HSDP keeps a shard on as many ranks as there are replicas. One of them writes it, and reads it for the others; which one
follows from names, shapes and the mesh, so nobody has to be asked. What lies on one rank only, as the momentum of an
owner, is its own business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed._checkpointable import _Checkpointable
from torch.distributed.tensor import DTensor


class Place(NamedTuple):
    """Of this rank among those that hold the same shard of a tensor."""

    number: int
    """0 .. count - 1"""
    count: int


def place_of(tensor: DTensor) -> Place:
    number, count = 0, 1
    for dim in copied_dims(tensor):
        size = tensor.device_mesh.size(dim)
        number, count = number * size + tensor.device_mesh.get_local_rank(dim), count * size
    return Place(number, count)


def copied_dims(tensor: DTensor) -> list[int]:
    """Dimensions of the mesh along which every rank holds the same."""
    return [dim for dim, placement in enumerate(tensor.placements) if placement.is_replicate()]


def owners(values: Mapping[str, Any]) -> dict[str, int]:
    """Name of each sharded tensor -> the place of the rank, among those with the same shard, that it belongs to.

    The largest first, each to the place with the fewest bytes so far: the same on every rank.
    """
    tensors = {name: value for name, value in values.items() if isinstance(value, DTensor)}
    loads: dict[int, list[int]] = {}
    found = {}
    for name in sorted(tensors, key=lambda name: (-_shard_bytes(tensors[name]), name)):
        load = loads.setdefault(place_of(tensors[name]).count, [0] * place_of(tensors[name]).count)
        found[name] = load.index(min(load))
        load[found[name]] += _shard_bytes(tensors[name])
    return found


def own_names(values: Mapping[str, Any]) -> set[str]:
    """What this rank writes and reads: its part of the divided tensors; on rank 0 also all that is the same on every
    rank."""
    sharded = owners(values)
    own = {name for name, owner in sharded.items() if place_of(values[name]).number == owner}
    own |= {name for name, value in values.items() if is_divided(value) and name not in sharded}
    return own | {name for name, value in values.items() if dist.get_rank() == 0 and not is_divided(value)}


def is_divided(value: Any) -> bool:
    """Whether ranks hold parts of it, and not all of it."""
    return isinstance(value, _Checkpointable)


def _shard_bytes(tensor: DTensor) -> int:
    """Of a shard of mean size: what a rank holds itself differs from rank to rank."""
    return tensor.numel() * tensor.element_size() * place_of(tensor).count // tensor.device_mesh.size()
