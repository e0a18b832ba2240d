"""Tokens on disk, in the layout of datatrove: a library is not needed to read it.

    00000.ds        token ids, raw little-endian uint16 (vocabulary up to 65,536) or uint32
    00000.ds.index  one uint64 per document: where it ends, counted in tokens of this shard, exclusive
    00000.ds.names  ours: one line per document, so that a step can be traced back to what it was trained on
    00000.ds.hashes ours: of each block of the tokens and the ends of the documents in it (tree.py)
    manifest.json   ours: what all of these must be (manifest.py)

This file writes a shard; datatrove.py reads all shards of a folder as one long sequence of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import BinaryIO

import numpy as np
import xxhash

from data_pipelines.shards import tree
from data_pipelines.shards.manifest import (
    BLOCK_BYTES,
    ENDS,
    HASHES,
    IN_TREE,
    NAMES,
    TOKENS,
    FileRecord,
    ShardRecord,
    TokenType,
    TreeRecord,
    join,
)
from data_pipelines.shards.storage import locate


def token_dtype(vocab_size: int) -> TokenType:
    """The narrowest type that holds ids 0 .. vocab_size - 1."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class HashingWriter:
    """A binary file that takes down its own FileRecord while it is written; block_bytes=None: without its blocks."""

    def __init__(self, file: BinaryIO, block_bytes: int | None = BLOCK_BYTES):
        self._file = file
        self._block_bytes = block_bytes
        self._sha256 = hashlib.sha256()
        self._block = xxhash.xxh3_128()
        self._blocks: list[str] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        """Appends `data`. Raises OSError."""
        self._file.write(data)
        self._sha256.update(data)
        if self._block_bytes is None:
            self._bytes += len(data)
        else:
            self._hash_blocks(memoryview(data), self._block_bytes)

    def record(self) -> FileRecord:
        """Of all that was written; nothing may be written after it."""
        if self._block_bytes and self._bytes % self._block_bytes:
            self._end_block()
        return FileRecord(bytes=self._bytes, sha256=self._sha256.hexdigest(), blocks=tuple(self._blocks))

    def _hash_blocks(self, view: memoryview, block_bytes: int) -> None:
        while view:
            room = block_bytes - self._bytes % block_bytes
            piece, view = view[:room], view[room:]
            self._block.update(piece)
            self._bytes += len(piece)
            if len(piece) == room:
                self._end_block()

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = xxhash.xxh3_128()


class ShardWriter:
    """Writes one shard into the folder `uri`; `record` describes it once the `with` block is left.

    Where the block fails, nothing of the shard stays: half of one would only fill a disk that may be full already.
    block_bytes: of tokens that a hash covers, whole tokens.
    """

    record: ShardRecord

    def __init__(self, uri: str, name: str, dtype: TokenType, *, block_bytes: int = tree.BLOCK_BYTES):
        self._uri = uri
        self._name = name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._block_bytes = block_bytes
        self._num_tokens = self._num_documents = self._max_token_id = 0

    def __enter__(self) -> ShardWriter:
        fs, folder = locate(self._uri)
        fs.makedirs(folder, exist_ok=True)
        self._stack = ExitStack()
        self._files = {
            suffix: HashingWriter(
                self._stack.enter_context(fs.open(join(folder, self._name + suffix), "wb")),
                None if suffix in IN_TREE else BLOCK_BYTES,
            )
            for suffix in (TOKENS, ENDS, NAMES, HASHES)
        }
        self._tree = tree.TreeWriter(self._files[HASHES].write, self._block_bytes)
        return self

    @property
    def itemsize(self) -> int:
        """Bytes of a token id."""
        return self._dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Of tokens so far."""
        return self._num_tokens * self.itemsize

    def add(self, name: str, token_ids: Sequence[int] | np.ndarray) -> None:
        """Append one document: its token ids, the end-of-text token included, at least one.

        Raises OverflowError for an id that the type does not hold, OSError where the store cannot be written.
        """
        ids = np.asarray(token_ids)
        largest = int(ids.max())
        if largest > np.iinfo(self._dtype).max or ids.min() < 0:
            raise OverflowError(f"{name}: token ids {ids.min()} to {largest} do not fit into {self._dtype.name}")
        self._num_tokens += len(ids)
        self._num_documents += 1
        self._max_token_id = max(self._max_token_id, largest)
        tokens, end = ids.astype(self._dtype).tobytes(), np.array(self._num_tokens, "<u8").tobytes()
        self._files[TOKENS].write(tokens)
        self._files[ENDS].write(end)
        self._tree.add(tokens, end)
        self._files[NAMES].write((" ".join(name.splitlines()) + "\n").encode(errors="replace"))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        root = ""
        try:
            with self._stack:
                if error is None:
                    root = self._tree.close()
        except BaseException:
            self._remove()
            raise
        if error is not None:
            self._remove()
            return
        self.record = ShardRecord(
            name=self._name,
            tokens=self._num_tokens,
            documents=self._num_documents,
            max_token_id=self._max_token_id,
            files={suffix: file.record() for suffix, file in self._files.items()},
            tree=TreeRecord(block_bytes=self._block_bytes, root=root),
        )

    def _remove(self) -> None:
        fs, folder = locate(self._uri)
        for suffix in self._files:
            with suppress(OSError):
                fs.rm_file(join(folder, self._name + suffix))
