"""00000.ds.hashes: what each block of a shard must be, so that a window costs little more to verify than to read. Pure.

    level 0   a record of 24 bytes for each 4 KiB of tokens: xxh3-64 of them, xxh3-64 of the ends (.ds.index) of the
              documents that end in them, number of documents that end before them
    level 1   xxh3-64 of each page of 3 KiB of level 0: 384 of them cover 192 MiB of tokens
    ...       of each page of the level before, until a level is one page, whose xxh3-128 is in the manifest

What a window of w bytes at a random place reads, if nothing of it was read before: on average w + 4 KiB of tokens in
whole blocks, a page of level 0, a page of level 1, and the 8 bytes of each document that ends there. The top is kept
by whoever reads, and needs two levels below it from 192 MiB on, three from 72 GiB on:

    4,096 ids of 2 bytes    12 + 3 + 3 KiB for 8 KiB      2.3 times what is used, 1.9 in shards up to 192 MiB
    8,192 ids of 4 bytes    36 + 3 + 3 KiB for 32 KiB     1.3 times

10T ids of 4 bytes are 40 TB. Their records, 234 GB or 0.6 %, stay on disk; their level 1 has 610 MB, and a rank of
2,048 sees 600,000 windows in it, so a cache would have to hold nearly all of it to help: only the tops are kept, 1.6
MB in 1,000 shards. Larger blocks would be read for nothing, smaller ones would double the records for 2 KiB a window.
64 bits: one damaged block in 10^19 is not noticed. The archive's hash is the sha256 of each file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import xxhash

BLOCK_BYTES = 4096
RECORD = np.dtype([("tokens", "<u8"), ("ends", "<u8"), ("documents", "<u8")])
HASH = np.dtype("<u8")
PAGE_BYTES = 3072
"""128 records, or 384 hashes."""


def level_bytes(num_blocks: int) -> list[int]:
    """Bytes of each level, which follow each other in the file, for a shard of so many blocks of tokens."""
    sizes = [num_blocks * RECORD.itemsize]
    while sizes[-1] > PAGE_BYTES:
        sizes.append(-(-sizes[-1] // PAGE_BYTES) * HASH.itemsize)
    return sizes


def page_hashes(level: bytes) -> np.ndarray:
    """xxh3-64 of each page, HASH [pages]; the last page may be shorter."""
    pages = memoryview(level)
    starts = range(0, len(pages), PAGE_BYTES)
    return np.array([xxhash.xxh3_64_intdigest(pages[start : start + PAGE_BYTES]) for start in starts], HASH)


class TreeWriter:
    """Makes the file while a shard is written; holds a page of level 0 and all of level 1, 0.0015 % of the tokens."""

    def __init__(self, write: Callable[[bytes], object], block_bytes: int = BLOCK_BYTES):
        self._write = write
        self._block_bytes = block_bytes
        self._page = bytearray()
        self._level_1 = bytearray()
        self._num_documents = 0
        self._begin_block()

    def add(self, tokens: bytes, end: bytes) -> None:
        """The next document: its tokens, and where it ends, as the files of the shard have them. Raises OSError."""
        view = memoryview(tokens)
        while view:
            if self._filled == self._block_bytes:  # not when it is full: the end of a document may still belong to it
                self._end_block()
            piece, view = view[: self._block_bytes - self._filled], view[self._block_bytes - self._filled :]
            self._tokens.update(piece)
            self._filled += len(piece)
        self._ends.update(end)
        self._num_documents += 1

    def close(self) -> str:
        """Writes what is left. Returns the root, 32 hex digits. Raises OSError."""
        if self._filled:
            self._end_block()
        if not self._level_1:
            top = bytes(self._page)
        else:
            self._end_page()
            top = bytes(self._level_1)
            while len(top) > PAGE_BYTES:
                self._write(top)
                top = page_hashes(top).tobytes()
        self._write(top)
        return xxhash.xxh3_128_hexdigest(top)

    def _begin_block(self) -> None:
        self._tokens, self._ends, self._filled = xxhash.xxh3_64(), xxhash.xxh3_64(), 0
        self._documents_before = self._num_documents

    def _end_block(self) -> None:
        if len(self._page) == PAGE_BYTES:  # not when it is full: a level of one page has no level above
            self._end_page()
        self._page += struct.pack("<3Q", self._tokens.intdigest(), self._ends.intdigest(), self._documents_before)
        self._begin_block()

    def _end_page(self) -> None:
        page, self._page = bytes(self._page), bytearray()
        self._level_1 += page_hashes(page).tobytes()
        self._write(page)
