"""Megatron-LM's indexed datasets: PREFIX.bin (raw ids) and PREFIX.idx.

    9 bytes "MMIDIDX\\0\\0", u64 version 1, u8 type of the ids, u64 sequences, u64 documents + 1,
    int32 length of each sequence, int64 byte of each in .bin, int64 first sequence of each document and the end

Source: megatron/core/datasets/indexed_dataset.py. A document may be several sequences; here it is one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.formats.foreign import Foreign, Hints, checked_ends, whole_tokens
from data_pipelines.shards.manifest import TokenType, join

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
_TYPES: dict[int, TokenType] = {8: "uint16", 4: "uint32"}
"""Code -> type that reads it. 4 is int32, whose ids are never negative: the same bytes."""
_OTHERS = {1: "uint8", 2: "int8", 3: "int16", 5: "int64", 6: "float64", 7: "float32"}


def find_megatron(fs: Any, folder: str, names: list[str], hints: Hints) -> list[Foreign]:
    found = []
    for file in sorted(name for name in names if name.endswith(".idx")):
        path, name = join(folder, file), file.removesuffix(".idx")
        tokens_in = name + ".bin"
        if tokens_in not in names:
            raise ValueError(f"{join(folder, tokens_in)} is missing: {file} is the index of it")
        dtype, num_sequences, num_edges = _header(fs, path)
        itemsize = np.dtype(dtype).itemsize
        num_tokens = whole_tokens(fs.size(join(folder, tokens_in)), itemsize, join(folder, tokens_in))

        def ends(
            path: str = path,
            counts: tuple[int, int] = (num_sequences, num_edges),
            itemsize: int = itemsize,
            num_tokens: int = num_tokens,
        ) -> Iterator[np.ndarray]:
            yield checked_ends(_ends(fs.cat_file(path), *counts, itemsize, path), num_tokens, path)

        found.append(Foreign(name=name, tokens_in=tokens_in, dtype=dtype, num_tokens=num_tokens, ends=ends))
    return found


def _header(fs: Any, path: str) -> tuple[TokenType, int, int]:
    """(type, sequences, documents + 1). Raises ValueError."""
    head = fs.cat_file(path, start=0, end=HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise ValueError(f"{path}: byte 0: no index of Megatron's (it begins with {head[:9]!r}, not {MAGIC!r})")
    _, version, code, num_sequences, num_edges = HEADER.unpack(head)
    if version != 1:
        raise ValueError(f"{path}: byte 9: version {version}; 1 is read")
    if code not in _TYPES:
        kind = _OTHERS.get(code, "of no known type")
        raise ValueError(f"{path}: byte 17: ids are {kind} (code {code}); uint16 and int32 are read: write it anew")
    expected = HEADER.size + num_sequences * 12 + num_edges * 8
    if (got := fs.size(path)) != expected:
        raise ValueError(
            f"{path}: {num_sequences:,} sequences and {num_edges:,} edges of documents are {expected:,} bytes, got "
            f"{got:,}"
        )
    return _TYPES[code], num_sequences, num_edges


def _ends(content: bytes, num_sequences: int, num_edges: int, itemsize: int, path: str) -> np.ndarray:
    lengths = np.frombuffer(content, "<i4", num_sequences, HEADER.size).astype(np.int64)
    pointers = np.frombuffer(content, "<i8", num_sequences, HEADER.size + 4 * num_sequences)
    edges = np.frombuffer(content, "<i8", num_edges, HEADER.size + 12 * num_sequences)
    until = np.cumsum(lengths)
    out_of_place = np.flatnonzero(pointers != (until - lengths) * itemsize)
    if out_of_place.size:
        k = int(out_of_place[0])
        raise ValueError(
            f"{path}: byte {HEADER.size + 4 * num_sequences + 8 * k:,}: sequence {k:,} lies at byte {pointers[k]:,} of "
            f"the .bin, expected {(until[k] - lengths[k]) * itemsize:,}: sequences must follow each other"
        )
    if not num_edges or edges[0] != 0 or (np.diff(edges) < 0).any() or edges[-1] != num_sequences:
        raise ValueError(
            f"{path}: byte {HEADER.size + 12 * num_sequences:,}: the edges of documents do not lead from sequence 0 to "
            f"{num_sequences:,}"
        )
    return until[np.unique(edges[1:]) - 1]  # a document without sequences is none


def write_index(lengths: np.ndarray, dtype: TokenType) -> bytes:
    """PREFIX.idx of documents of these lengths, a sequence each: with it Megatron-LM reads our tokens as PREFIX.bin."""
    code = {kind: code for code, kind in _TYPES.items()}[dtype]
    until = np.cumsum(lengths.astype(np.int64))
    pointers = (until - lengths) * np.dtype(dtype).itemsize
    head = HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1)
    parts = (lengths.astype("<i4"), pointers.astype("<i8"), np.arange(len(lengths) + 1, dtype="<i8"))
    return head + b"".join(part.tobytes() for part in parts)
