"""A DCP checkpoint written as a stream: each shard is made when its turn comes. Extends DCP's save planner."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from data_pipelines.base.progress import progress_bar

Make = Callable[[MetadataIndex], Tensor]
"""(name of a tensor, offsets of one of its shards) -> that shard."""


def write_checkpoint(folder: Path, tensors: Mapping[str, TensorStorageMetadata], make: Make, *, desc: str) -> None:
    """Writes `tensors` in the shards that they name, in one process without a process group.

    Runs load the result on any mesh. In memory is one shard at a time.
    """
    num_bytes = sum(tensor.properties.dtype.itemsize * tensor.size.numel() for tensor in tensors.values())
    with warnings.catch_warnings(), progress_bar(desc=desc, total=num_bytes, unit="B", unit_scale=True) as bar:
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is the intent
        planner = _ShardByShard(tensors, make, bar.update)
        try:
            save({}, storage_writer=FileSystemWriter(folder), planner=planner, no_dist=True)
        except CheckpointException as error:  # a BaseException, around what `make` or the disk said
            raise next(iter(error.failures.values()))[0] from None


class _ShardByShard(DefaultSavePlanner):
    """Plans from shapes alone; asks for the numbers of a shard as it is written."""

    def __init__(
        self, tensors: Mapping[str, TensorStorageMetadata], make: Make, progress: Callable[[int], object]
    ) -> None:
        super().__init__(flatten_state_dict=False)
        self.tensors, self.make, self.progress = tensors, make, progress

    def create_local_plan(self) -> SavePlan:
        items = [
            WriteItem(
                index=MetadataIndex(name, shard.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=shard, properties=tensor.properties, size=tensor.size),
            )
            for name, tensor in self.tensors.items()
            for shard in tensor.chunks
        ]
        return SavePlan(items)

    def resolve_data(self, write_item: WriteItem) -> Any:
        tensor = self.make(write_item.index)
        self.progress(tensor.nbytes)
        return tensor
