"""Safetensors files written as a stream: what is where follows from shapes alone, the bytes come in blocks.

safetensors' own writer wants every tensor of a file in memory. Format: header length (u64, little-endian), header
(JSON, padded with spaces to 8 bytes), then the tensors without gaps. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""Names of the format."""


@dataclass(frozen=True)
class Entry:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: Any
    """Where the bytes come from; only the caller's `read` looks into it."""

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape)


def plan_shards(entries: Iterable[Entry], *, shard_bytes: int) -> dict[str, list[Entry]]:
    """File name -> its tensors, in order: as many as fit into `shard_bytes`, at least one."""
    shards: list[list[Entry]] = [[]]
    room = shard_bytes
    for entry in entries:
        if entry.nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(entry)
        room -= entry.nbytes
    return {f"model-{n:05d}-of-{len(shards):05d}.safetensors": shard for n, shard in enumerate(shards, 1)}


def index_of(shards: dict[str, list[Entry]]) -> dict[str, Any]:
    """model.safetensors.index.json."""
    return {
        "metadata": {"total_size": sum(entry.nbytes for shard in shards.values() for entry in shard)},
        "weight_map": {entry.name: file for file, shard in shards.items() for entry in shard},
    }


def write_shard(
    path: Path,
    shard: list[Entry],
    *,
    read: Callable[[Entry], Iterator[Tensor]],
    progress: Callable[[int], object],
) -> None:
    """read: an entry -> consecutive parts of it, of any dtype; progress: takes the number of bytes just written."""
    ordered = sorted(shard, key=lambda entry: -entry.dtype.itemsize)  # each tensor is aligned to its own dtype
    with path.open("wb") as file:
        file.write(_header(ordered))
        for entry in ordered:
            num_bytes = 0
            for part in read(entry):
                num_bytes += file.write(part.to(entry.dtype).contiguous().view(torch.uint8).numpy().data)
                progress(part.numel() * entry.dtype.itemsize)
            assert num_bytes == entry.nbytes, (entry, num_bytes)


def _header(entries: list[Entry]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for the format
    end = 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        header[entry.name] = {
            "dtype": _DTYPES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
