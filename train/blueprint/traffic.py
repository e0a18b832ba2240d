"""What HSDP moves in a step: counted in the engine's own groups of parameters, which meta tensors on pretended ranks
have as well. The optimizer's part is in train/optim/orthogonal/traffic.py, that of the experts' tokens in none.

For a group of S shards x R replicas, with n elements (padded) on a rank, w bytes an element of gathered weights and g
of reduced gradients (training.mixed_precision_param, mixed_precision_reduce), a rank receives

    all_gather        w n (S-1)        in the forward pass of each microbatch, and again in its backward pass where the
                                       weights are given up in between
    reduce_scatter    g n (S-1)        in the backward pass of each microbatch
    all_reduce        2 g n (R-1)/R    in the last microbatch
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, HSDPMeshInfo
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup


@dataclass(frozen=True)
class Moved:
    """By one kind of collective, in a step, on this rank."""

    calls: int = 0
    buffers: int = 0
    """Bytes of the buffers that go in."""
    received: float = 0.0
    """Bytes that come over the network."""

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.calls + other.calls, self.buffers + other.buffers, self.received + other.received)

    def times(self, count: int) -> Moved:
        return Moved(self.calls * count, self.buffers * count, self.received * count)


def hsdp_traffic(model: nn.Module, *, num_microbatches: int) -> dict[str, Moved]:
    """Collective -> what it moves in a step of so many microbatches. model: as `parallelize` has left it."""
    moved = {"all_gather": Moved(), "reduce_scatter": Moved(), "all_reduce": Moved()}
    for group in _groups(model):
        assert isinstance(group.mesh_info, FSDPMeshInfo)
        others = group.mesh_info.shard_mesh_size - 1
        weights = _local_bytes(group, group.mp_policy.param_dtype)
        gradients = _local_bytes(group, group.mp_policy.reduce_dtype)
        passes = 1 if group.post_forward_mesh_info is None else 2
        if others:
            moved["all_gather"] += Moved(1, weights, weights * others).times(passes * num_microbatches)
            moved["reduce_scatter"] += Moved(1, gradients * (others + 1), gradients * others).times(num_microbatches)
        if isinstance(group.mesh_info, HSDPMeshInfo):
            replicas = group.mesh_info.replicate_mesh_size
            moved["all_reduce"] += Moved(1, gradients, 2 * gradients * (replicas - 1) / replicas)
    return moved


def _groups(model: nn.Module) -> Iterator[FSDPParamGroup]:
    """Each once: modules that are wrapped together, as the last norm and the head, share a state."""
    states = {module._get_fsdp_state(): None for module in model.modules() if isinstance(module, FSDPModule)}
    for state in states:
        yield from state._fsdp_param_groups


def _local_bytes(group: FSDPParamGroup, dtype: torch.dtype | None) -> int:
    """Of this rank's part, padded, in `dtype`; None: in that of the parameters."""
    return sum(
        prod(param.padded_sharded_param_size) * (dtype or param.sharded_param.dtype).itemsize
        for param in group.fsdp_params
    )
