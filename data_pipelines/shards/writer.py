"""Tokens on disk, in the layout of datatrove: a library is not needed to read it.

    00000.ds        token ids, raw little-endian uint16 (vocabulary up to 65,536) or uint32
    00000.ds.index  one uint64 per document: where it ends, counted in tokens of this shard, exclusive
    00000.ds.names  ours: one line per document, so that a step can be traced back to what it was trained on
    manifest.json   ours: what all of these must be (manifest.py)

This file writes a shard; datatrove.py reads all shards of a folder as one long sequence of tokens.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from types import TracebackType

import numpy as np

from data_pipelines.shards.manifest import BLOCK_BYTES, ENDS, NAMES, TOKENS, HashingWriter, ShardRecord, TokenType, join
from data_pipelines.shards.storage import locate


def token_dtype(vocab_size: int) -> TokenType:
    """The narrowest type that holds ids 0 .. vocab_size - 1."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class ShardWriter:
    """Writes one shard into the folder `uri`; `record` describes it once the `with` block is left.

    Where the block fails, nothing of the shard stays: half of one would only fill a disk that may be full already.
    """

    record: ShardRecord

    def __init__(self, uri: str, name: str, dtype: TokenType, *, block_bytes: int = BLOCK_BYTES):
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
                self._stack.enter_context(fs.open(join(folder, self._name + suffix), "wb")), self._block_bytes
            )
            for suffix in (TOKENS, ENDS, NAMES)
        }
        return self

    def add(self, name: str, token_ids: list[int]) -> None:
        """Append one document: its token ids, the end-of-text token included, at least one.

        Raises OverflowError for an id that the type does not hold, OSError where the store cannot be written.
        """
        self._num_tokens += len(token_ids)
        self._num_documents += 1
        self._max_token_id = max(self._max_token_id, max(token_ids))
        self._files[TOKENS].write(np.array(token_ids, self._dtype).tobytes())
        self._files[ENDS].write(np.array(self._num_tokens, "<u8").tobytes())
        self._files[NAMES].write((" ".join(name.splitlines()) + "\n").encode(errors="replace"))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stack.close()
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
        )

    def _remove(self) -> None:
        fs, folder = locate(self._uri)
        for suffix in self._files:
            with suppress(OSError):
                fs.rm_file(join(folder, self._name + suffix))
