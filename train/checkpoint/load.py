"""One of the ranks that hold a shard reads it; the others get it over the network. Rank 0 alone reads the directory.

DCP's `load` has every rank read all that it holds, so that the replicas of HSDP read the same bytes each, and plans on
rank 0 for all. The reader and its planner are DCP's.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

from train.checkpoint.copies import copied_dims, is_divided, own_names, owners
from train.engine.together import from_rank_0, on_all_ranks, talking


def load(states: dict[str, Any], make_reader: Callable[[], FileSystemReader], group: dist.ProcessGroup | None) -> None:
    """Fills `states` in place. group: of all ranks, patient enough for the slowest to read.

    Raises on every rank what went wrong on one.
    """
    planner = _Planner()
    reader = on_all_ranks(make_reader, group)
    metadata = from_rank_0(reader.read_metadata, group)

    def read_own() -> LoadPlan:
        planner.set_up_planner(states, metadata)
        reader.set_up_storage_reader(metadata, is_coordinator=False)
        names, plan = own_names(planner.state_dict), planner.create_local_plan()
        own = LoadPlan([item for item in plan.items if item.dest_index.fqn in names])
        reader.read_data(own, planner).wait()
        return plan

    plan = on_all_ranks(read_own, group)
    _share_sharded(planner.state_dict)
    _share_others(planner, plan, group)


class _Planner(DefaultLoadPlanner):
    """DCP's, which remembers what it read that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, bytes] = {}

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.read[read_item.dest_index.fqn] = value.getvalue()
        super().load_bytes(read_item, value)


def _share_sharded(values: dict[str, Any]) -> None:
    """Along each dimension of the mesh from the rank that has read to the others."""
    for name, owner in owners(values).items():
        tensor = values[name]
        local, place = tensor.to_local(), owner
        for dim in reversed(copied_dims(tensor)):
            place, source = divmod(place, tensor.device_mesh.size(dim))
            if local.numel() and tensor.device_mesh.size(dim) > 1:
                whole = local.contiguous()
                with talking():
                    dist.broadcast(whole, group=tensor.device_mesh.get_group(dim), group_src=source)
                local.copy_(whole)


def _share_others(planner: _Planner, plan: LoadPlan, group: dist.ProcessGroup | None) -> None:
    """Scalars and small tensors, in one message."""
    values = {
        name: value
        for name, value in planner.state_dict.items()
        if isinstance(value, torch.Tensor) and not is_divided(value)
    }
    read, tensors = from_rank_0(lambda: (planner.read, {name: value.cpu() for name, value in values.items()}), group)
    if dist.get_rank():
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(read[item.dest_index.fqn]))
        for name, tensor in tensors.items():
            values[name].copy_(tensor)
