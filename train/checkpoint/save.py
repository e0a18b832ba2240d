"""Every rank writes what it owns, by a plan of its own; rank 0 writes down where everything is.

DCP's `save` sends the plans of all ranks to rank 0, which plans for all. With Trinity Large on 2,048 ranks that is
20 million items and takes minutes, while the others wait (tests/bench_scale). The files are DCP's, and so is what
writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_local_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from train.checkpoint.copies import own_names


class Written(NamedTuple):
    """What a rank has written: rank 0 needs no more of it."""

    results: list[WriteResult]
    """Which shard lies where."""
    sizes: list[tuple[int, ...]]
    """Of each shard; () of what is no tensor."""


class Saver:
    """Saves the states of a run again and again; what is to be written is planned once."""

    def __init__(self) -> None:
        self._plan: SavePlan | None = None
        self.names: list[str] = []

    def write_own(self, states: dict[str, Any], folder: Path) -> Written:
        """Writes this rank's part into `folder`, which is there, and onto the disk."""
        planner, writer = DefaultSavePlanner(), FileSystemWriter(folder)
        planner.set_up_planner(states)
        plan = self.plan(planner.state_dict)
        results = writer.write_data(plan, planner).value()
        sizes = {item.index: _sizes(item) for item in plan.items}
        return Written(results, [sizes[result.index] for result in results])

    def plan(self, values: Mapping[str, Any]) -> SavePlan:
        """What this rank writes of the flat state `values`."""
        if self._plan is None or self.names != list(values):
            own = own_names(values)
            items = create_default_local_save_plan({name: values[name] for name in values if name in own}, True).items
            plan = SavePlan([item for item in items if not _is_empty(item)])
            # the writer names files by the place of a plan among those of all ranks
            *_, self._plan = FileSystemWriter("").prepare_global_plan([SavePlan([])] * dist.get_rank() + [plan])
            self.names = list(values)
        return self._plan


def write_directory(states: dict[str, Any], folder: Path, written: Iterable[Written]) -> None:
    """On rank 0, when all ranks have written: DCP's `.metadata`. Raises ValueError where something is missing."""
    planner, writer = DefaultSavePlanner(), FileSystemWriter(folder)
    planner.set_up_planner(states, is_coordinator=True)
    writer.set_up_storage_writer(True)
    parts = list(written)
    found = _described(planner.state_dict, parts)
    writer.finish(Metadata(found, planner_data=planner.mappings), [part.results for part in parts])


def _described(values: Mapping[str, Any], written: Iterable[Written]) -> dict[str, Any]:
    """DCP's description of each value, with the shards that were written."""
    found = {name: _description(value) for name, value in values.items()}
    counts = dict.fromkeys(found, 0)
    for part in written:
        for result, sizes in zip(part.results, part.sizes, strict=True):
            name, offset = result.index.fqn, result.index.offset
            counts[name] += prod(sizes)
            if offset is not None:
                found[name].chunks.append(ChunkStorageMetadata(offset, torch.Size(sizes)))
    for name, value in values.items():
        expected = value.numel() if isinstance(value, torch.Tensor) else 1
        if counts[name] != expected:
            raise ValueError(f"{name}: {counts[name]:,} values were written, it has {expected:,}")
    return found


def _description(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return BytesStorageMetadata()
    local = value.to_local() if isinstance(value, DTensor) else value
    return TensorStorageMetadata(TensorProperties.create_from_tensor(local), value.size(), chunks=[])


def _sizes(item: WriteItem) -> tuple[int, ...]:
    return tuple(item.tensor_data.chunk.sizes) if item.tensor_data else ()


def _is_empty(item: WriteItem) -> bool:
    """The shard of a rank for which nothing is left: fewer rows than ranks."""
    return 0 in _sizes(item)
