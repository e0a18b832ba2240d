"""A Hugging Face folder as a checkpoint of ours, for any mesh. Extends DCP's storage reader.

Each published tensor is a stored shard of one of our tensors: an expert's matrix is a slice of its layer's stack. With
that told to DCP, every rank reads its part of the files and nothing else, and nothing is renamed or stacked in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from data_pipelines.base.errors import ConfigError
from train.afmoe.config import ModelConfig
from train.blueprint.shapes import shape_problems
from train.formats.hf_names import Piece, model_config, pieces

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")
"""Names, in safetensors, of the dtypes that become float32 without loss."""


class Stored(NamedTuple):
    """A tensor in a file."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class PublishedStorage(FileSystemReader):
    """Reads a folder of published tensors under our names and shapes."""

    tensors: dict[str, TensorStorageMetadata]
    """Our tensors, and the shards that the published ones are of them."""

    def __init__(self, folder: Path, shapes: Mapping[str, Sequence[int]]):
        """shapes: our names -> whole shapes. Raises ConfigError, with every problem, where the folder differs."""
        super().__init__(folder)
        parts = {name: pieces(name, shape) for name, shape in shapes.items()}
        self._stored = stored_tensors(folder)
        _check(folder, self._stored, [piece for part in parts.values() for piece in part])
        self.tensors = {
            name: TensorStorageMetadata(
                properties=TensorProperties(dtype=torch.float32),
                size=torch.Size(shapes[name]),
                chunks=[ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes)) for piece in part],
            )
            for name, part in parts.items()
        }
        self.storage_data: dict[MetadataIndex, Piece] = {
            MetadataIndex(name, piece.offsets): piece for name, part in parts.items() for piece in part
        }

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(dict(self.tensors), storage_data=self.storage_data)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            target = planner.resolve_tensor(item).detach()
            box = (slice(start, start + size) for start, size in zip(item.storage_offsets, item.lengths, strict=True))
            target.copy_(self.read(item.storage_index, *box))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def read(self, shard: MetadataIndex, *box: slice) -> Tensor:
        """A shard of one of our tensors, or a box of it, in the dtype of the file. ConfigError for NaN or Inf."""
        piece = self.storage_data[shard]
        with safe_open(self._stored[piece.name].file, framework="pt") as file:
            tensor = file.get_slice(piece.name)
            # of experts, a shard is one row of the stack, which box[0] takes whole
            values = tensor[(box if piece.expert_id is None else box[1:]) or ...]
        if not torch.isfinite(values).all():
            bad = values[~torch.isfinite(values)].flatten()
            raise ConfigError(
                [
                    f"{self._stored[piece.name].file}: {piece.name} has {len(bad):,} values that are not finite, such "
                    f"as {bad[0].item()}; the weights are damaged, get them again"
                ]
            )
        return values if piece.expert_id is None else values.unsqueeze(0)


def _check(folder: Path, stored: Mapping[str, Stored], expected: Sequence[Piece]) -> None:
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    problems = shape_problems(shapes, {piece.name: piece.shape for piece in expected})
    for name, tensor in stored.items():
        if tensor.dtype not in DTYPES:
            problems.append(f"{name}: got {tensor.dtype}, expected one of {', '.join(DTYPES)}")
            break  # a quantized model has thousands of them
    if problems:
        raise ConfigError([f"{folder}: {problem}" for problem in problems])


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Published name -> what the headers of the folder's files say. Raises ConfigError for a file that is not whole."""
    found: dict[str, Stored] = {}
    problems: list[str] = []
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (not a mapping)
                    header = tensors.get_slice(name)
                    found[name] = Stored(file, tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError) as error:
            problems.append(f"{file}: {error}; download it again")
    if problems:
        raise ConfigError(problems)
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that the index names, or the only one there is. Raises ConfigError where one is missing."""
    index = folder / INDEX
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not names or not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ConfigError([f"{index}: weight_map names no files of tensors; download it again"])
        files = sorted(folder / name for name in set(names.values()))
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ConfigError([f"{index} names {name}, which is not there; download it" for name in missing])
        return files
    if not (folder / "model.safetensors").is_file():
        raise ConfigError([f"{folder} has no weights: neither {INDEX} nor model.safetensors"])
    return [folder / "model.safetensors"]


def published_model(folder: Path) -> ModelConfig:
    """The architecture of a published folder. Raises ConfigError, naming the key, for one that this model is not."""
    path = folder / CONFIG
    config = read_json(path)
    try:
        return model_config(config)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises ConfigError for a file that is missing or damaged."""
    if not path.parent.is_dir():
        raise ConfigError([f"{path.parent} is no folder; name one with {path.name}"])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: cannot be read ({error}); download it again"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: holds no JSON object; download it again"])
    return content
