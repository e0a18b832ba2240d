"""Weights out of a run's checkpoint, in one process without a process group: tensor by tensor, or as a model."""

from __future__ import annotations

from collections.abc import Mapping
from io import IOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view

from data_pipelines.base.errors import ConfigError
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe
from train.afmoe.spec import afmoe_config
from train.blueprint.shapes import model_shapes, shape_problems
from train.checkpoint.commits import check_is_checkpoint, committed_steps
from train.formats.hf_names import is_published

DAMAGED = "the checkpoint is damaged, take another step"

CheckpointName = int | str
"""Number of a step, or the name of the checkpoint that ends a phase: `phase-general`."""


class CheckpointReader:
    """The model in a DCP checkpoint, written on any mesh. Reads from disk what is asked for, and no more.

    DCP's own reader loads a stored shard whole to use a part of it: with the experts of a layer in one shard, a whole
    stack for each expert. Here the rows that are wanted are found in the file.
    """

    folder: Path
    shapes: Mapping[str, torch.Size]
    """Our name -> shape of the whole tensor: weights and selection biases, not what else training keeps."""

    def __init__(self, folder: Path):
        """Raises ConfigError where the folder holds no checkpoint."""
        check_is_checkpoint(folder)
        metadata = _read_metadata(folder)
        self.folder = folder
        self._storage = metadata.storage_data
        self._tensors = {
            name: tensor
            for name, tensor in metadata.state_dict_metadata.items()
            if is_published(name) and isinstance(tensor, TensorStorageMetadata)
        }
        self.shapes = {name: tensor.size for name, tensor in self._tensors.items()}
        self._first_bytes: dict[tuple[str, int], int] = {}

    def file_problems(self) -> list[str]:
        """Each file of the checkpoint, training states too, that is missing or shorter than what lies in it."""
        ends: dict[str, int] = {}
        for place in self._storage.values():
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
        problems = []
        for name, expected in sorted(ends.items()):
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{path} is missing; {DAMAGED}")
            elif (got := path.stat().st_size) < expected:
                problems.append(f"{path}: expected {expected:,} bytes, got {got:,}; {DAMAGED}")
        return problems

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor in its stored dtype (float32), or the given rows of its dimension 0, from however many shards.

        Raises OSError for a file that is missing or too short.
        """
        tensor = self._tensors[name]
        first, last, _ = (rows or slice(None)).indices(tensor.size[0])
        out = torch.empty(last - first, *tensor.size[1:], dtype=tensor.properties.dtype)
        for shard in tensor.chunks:
            begin = shard.offsets[0]
            start, stop = max(first, begin), min(last, begin + shard.sizes[0])
            if start < stop and shard.sizes.numel():  # the last of uneven shards may be empty
                values = self._read_stored(name, shard, start - begin, stop - begin, dtype=out.dtype)
                inner = (slice(at, at + size) for at, size in zip(shard.offsets[1:], shard.sizes[1:], strict=True))
                out[(slice(start - first, stop - first), *inner)] = values
        return out

    def _read_stored(
        self, name: str, shard: ChunkStorageMetadata, start: int, stop: int, *, dtype: torch.dtype
    ) -> Tensor:
        """`_read_rows`, whatever a damaged file makes of unpickling and seeking."""
        try:
            return self._read_rows(name, shard, start, stop, dtype=dtype)
        except OSError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise OSError(f"{self.folder}: {name} cannot be read ({reason}); {DAMAGED}") from error

    def _read_rows(
        self, name: str, shard: ChunkStorageMetadata, start: int, stop: int, *, dtype: torch.dtype
    ) -> Tensor:
        """Rows start .. stop - 1 of one stored shard."""
        place = self._storage[MetadataIndex(name, shard.offsets)]
        path = self.folder / place.relative_path
        row_bytes = dtype.itemsize * torch.Size(shard.sizes[1:]).numel()
        content = bytearray((stop - start) * row_bytes)
        with path.open("rb") as file:
            file.seek(self._first_byte(file, place) + start * row_bytes)
            if file.readinto(content) != len(content):
                raise OSError(f"{path}: ends inside of {name}; {DAMAGED}")
        return torch.frombuffer(content, dtype=dtype).view(stop - start, *shard.sizes[1:])

    def _first_byte(self, file: BinaryIO, place: Any) -> int:
        """Where in `file` the numbers of a stored shard begin: it is an archive of `torch.save`, one of many."""
        key = (place.relative_path, place.offset)
        if key not in self._first_bytes:
            view: Any = _create_file_view(cast(IOBase, file), place.offset, place.length)
            try:
                stored = torch.load(view, map_location="meta", weights_only=True)  # meta: only the archive's directory
            except Exception as error:  # whatever unpickling makes of damaged bytes
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise OSError(f"{file.name}: {reason}; {DAMAGED}") from error
            assert stored.is_contiguous(), (file.name, place, stored.stride())
            self._first_bytes[key] = place.offset + stored.untyped_storage()._checkpoint_offset
        return self._first_bytes[key]


def _read_metadata(folder: Path) -> Metadata:
    try:
        metadata = FileSystemReader(folder).read_metadata()
        assert isinstance(metadata, Metadata), type(metadata)
    except Exception as error:  # a pickle, and whatever unpickling makes of damaged bytes
        raise ConfigError(
            [f"{folder}/.metadata: cannot be read ({type(error).__name__}: {error}); {DAMAGED}"]
        ) from error
    return metadata


def open_checkpoint(checkpoints: Path, model: ModelConfig, step: CheckpointName | None = None) -> CheckpointReader:
    """Checkpoint `step` in the folder `checkpoints` of a run, or the last. Raises ConfigError for none of `model`."""
    folder = checkpoint_path(checkpoints, step)
    reader = CheckpointReader(folder)
    problems = shape_problems(reader.shapes, model_shapes(model))
    if problems:
        raise ConfigError([f"{folder}: {problem}" for problem in problems])
    return reader


def load_model(checkpoints: Path, model: ModelConfig, *, seq_len: int, step: CheckpointName | None = None) -> Afmoe:
    """The model at checkpoint `step` (None: the last), float32 on the CPU, in evaluation mode.

    Raises ConfigError where there is no such checkpoint.
    """
    reader = open_checkpoint(checkpoints, model, step)
    with torch.device("meta"):
        built = afmoe_config(model, seq_len=seq_len).build()
    built.to_empty(device="cpu")
    for block in built.layers.values():  # positions are computed, not stored
        if block.attention.rope is not None:
            block.attention.rope._init_self_buffers()
    state = built.state_dict()
    for name in reader.shapes:
        state[name].copy_(reader.read(name))
    return built.eval()


def checkpoint_path(folder: Path, step: CheckpointName | None) -> Path:
    """Folder of the complete checkpoint of `step`, or of the last one. Raises ConfigError where there is none."""
    steps = [f"step-{number}" for number in committed_steps(folder)]
    if not steps:
        raise ConfigError([f"{folder} has no complete checkpoint yet"])
    phases = sorted(link.name for link in folder.glob("phase-*") if link.exists())
    name = steps[-1] if step is None else f"step-{step}" if str(step).isdecimal() else step
    if name not in [*steps, *phases]:
        raise ConfigError([f"{folder} has no complete checkpoint {name}; there are: {', '.join([*steps, *phases])}"])
    return (folder / str(name)).resolve()
