"""What the weights and states of a start are read from, with the file that cannot be read in every refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from train.checkpoint.commits import is_checkpoint
from train.formats.hf_folder import PublishedStorage


def storage_of(folder: Path, shapes: Mapping[str, Sequence[int]]) -> FileSystemReader:
    """What DCP reads tensors of these names and shapes from: a checkpoint, or a published folder."""
    return CheckpointStorage(folder) if is_checkpoint(folder) else PublishedStorage(folder, shapes)


class CheckpointStorage(FileSystemReader):
    """A folder that DCP wrote. Extends its reader, whose errors are those of unpickling: they name no file.

    Raises OSError without a cause: the innermost reason is what a person is told (train/checkpoint/manager.py).
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        try:
            metadata = super().read_metadata(*args, **kwargs)
            assert isinstance(metadata, Metadata), type(metadata)
        except Exception as error:  # whatever unpickling makes of damaged bytes
            raise _damaged(Path(self.path) / ".metadata", error) from None
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """File by file."""
        done = super().read_data(LoadPlan([]), planner)
        for name, items in groupby(sorted(plan.items, key=self._file), self._file):
            try:
                done = super().read_data(LoadPlan(list(items)), planner)
            except Exception as error:
                raise _damaged(Path(self.path) / name, error) from None
        return done

    def _file(self, item: ReadItem) -> str:
        return self.storage_data[item.storage_index].relative_path


def _damaged(file: Path, error: Exception) -> OSError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return OSError(f"{file}: cannot be read ({reason}); the checkpoint is damaged")
