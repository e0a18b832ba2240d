"""Reads shards by range; nothing is handed out that was not verified.

ShardReader  what is asked of the shards of a folder, each by its number s
TreeReader   shards with a tree of hashes (tree.py): little more is read than what is asked for
BlockReader  shards without: a whole block of the manifest when it is first touched, all ends of a shard at once
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xxhash

from data_pipelines.shards.manifest import (
    ENDS,
    HASHES,
    REMEDY,
    TOKENS,
    DataError,
    FileRecord,
    Manifest,
    TreeRecord,
    join,
)
from data_pipelines.shards.storage import local_path, locate, patiently, read_local
from data_pipelines.shards.tree import HASH, PAGE_BYTES, RECORD, level_bytes, page_hashes

if TYPE_CHECKING:
    from data_pipelines.shards.parquet_range import ParquetRange

PIECE_BYTES = 16 * 2**20
"""Read at a time where a file is read from one end to the other."""


class RangeFile:
    """Range reads of a file whose size is known.

    A local file is opened for each read: that takes 5 microseconds, and 30 sources of 10,000 shards would be more open
    files than a process may have. It is not mapped into memory: where one shrinks, the process would end by a signal.
    """

    def __init__(self, uri: str, num_bytes: int):
        self.uri = uri
        self._num_bytes = num_bytes
        self._fs, self._path = locate(uri)
        self._range = partial(read_local, self._path) if local_path(uri) is not None else self._from_store

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop-1. Raises DataError where the file does not have them, OSError where none can be read."""
        if start == stop:
            return b""
        try:
            data = self._range(start, stop)
        except FileNotFoundError as err:
            raise DataError(f"{self.uri} is missing; {REMEDY}") from err
        # A short read is how a truncated or still growing file looks; nothing may be made up for the rest.
        if len(data) != stop - start:
            raise DataError(
                f"{self.uri}: asked for bytes {start:,} to {stop:,}, got {len(data):,} bytes; the manifest says the "
                f"file has {self._num_bytes:,}; {REMEDY}"
            )
        return data

    def _from_store(self, start: int, stop: int) -> bytes:
        return patiently(self.uri, lambda: self._fs.cat_file(self._path, start=start, end=stop))

    def pieces(self) -> Iterator[bytes]:
        """All of it."""
        for start in range(0, self._num_bytes, PIECE_BYTES):
            yield self.read(start, min(start + PIECE_BYTES, self._num_bytes))

    def damaged(self, start: int, stop: int, hash_name: str) -> DataError:
        """The error that says that these bytes are not what was written."""
        return DataError(
            f"{self.uri}: bytes {start:,} to {stop:,} differ from what the manifest recorded ({hash_name}); {REMEDY}"
        )


class VerifiedFile:
    """A file that the manifest has hashes of blocks for; a block is verified when it is first touched."""

    def __init__(self, uri: str, record: FileRecord, block_bytes: int):
        self._file = RangeFile(uri, record.bytes)
        self._record = record
        self._block_bytes = block_bytes
        self._verified: set[int] = set()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop-1. Raises DataError if they are not there or not the ones that were written."""
        for block in range(start // self._block_bytes, -(-stop // self._block_bytes)):
            if block not in self._verified:
                self._read_block(block)
        return self._file.read(start, stop)

    def pieces(self) -> Iterator[bytes]:
        """All of it, block by block. Raises DataError at the first that is not what was written."""
        return map(self._read_block, range(len(self._record.blocks)))

    def _read_block(self, block: int) -> bytes:
        start = block * self._block_bytes
        stop = min(start + self._block_bytes, self._record.bytes)
        data = self._file.read(start, stop)
        if xxhash.xxh3_128_hexdigest(data) != self._record.blocks[block]:
            raise self._file.damaged(start, stop, f"xxh3-128 of block {block}")
        self._verified.add(block)
        return data


class ShardReader(Protocol):
    """Raises DataError for what is missing or not what was written."""

    def tokens(self, s: int, start: int, stop: int) -> np.ndarray:
        """Token ids start .. stop-1 of the shard, as they are stored."""
        ...

    def ends(self, s: int, start: int, stop: int) -> np.ndarray:
        """The ends of documents that lie in start + 1 .. stop, int64, ascending."""
        ...

    def document(self, s: int, token: int) -> int:
        """Number of the document that the token belongs to."""
        ...


class BlockReader:
    """A ShardReader of shards without a tree."""

    def __init__(self, uri: str, manifest: Manifest):
        self._uri = uri
        self._manifest = manifest
        self._files = cache(self._open)
        # An index takes megabytes and a source may have thousands of them.
        self._all_ends = lru_cache(64)(self._load_ends)

    def tokens(self, s: int, start: int, stop: int) -> np.ndarray:
        itemsize = self._manifest.itemsize
        return np.frombuffer(self._files(s, TOKENS).read(start * itemsize, stop * itemsize), self._manifest.stored)

    def ends(self, s: int, start: int, stop: int) -> np.ndarray:
        return _between(self._all_ends(s), start, stop)

    def document(self, s: int, token: int) -> int:
        return int(np.searchsorted(self._all_ends(s), token, "right"))

    def _load_ends(self, s: int) -> np.ndarray:
        return _ends_in(b"".join(self._files(s, ENDS).pieces()))

    def _open(self, s: int, suffix: str) -> VerifiedFile:
        shard = self._manifest.shards[s]
        return VerifiedFile(join(self._uri, shard.name + suffix), shard.files[suffix], self._manifest.block_bytes)


class TreeReader:
    """A ShardReader of shards with a tree. Blocks, pages and levels are those of tree.py.

    The top of each tree is kept; of the other pages, those that were read last: a window asks for its own twice.
    """

    def __init__(self, uri: str, manifest: Manifest):
        self._uri = uri
        self._manifest = manifest
        self._files = cache(self._open)
        self._tops = cache(self._read_top)
        self._pages = lru_cache(256)(self._read_pages)

    def tokens(self, s: int, start: int, stop: int) -> np.ndarray:
        size = self._block_tokens(s)
        first = start // size
        data = self._verified_tokens(s, first, -(-stop // size))
        return np.frombuffer(data, self._manifest.stored)[start - first * size : stop - first * size]

    def ends(self, s: int, start: int, stop: int) -> np.ndarray:
        size = self._block_tokens(s)
        return _between(_ends_in(self._verified_ends(s, start // size, -(-stop // size))), start, stop)

    def document(self, s: int, token: int) -> int:
        block = token // self._block_tokens(s)
        ends = _ends_in(self._verified_ends(s, block, block + 1))
        return int(self._documents(s, block, block + 1)[0] + np.searchsorted(ends, token, "right"))

    def pieces(self, s: int, suffix: str) -> Iterator[bytes]:
        """All of one of the files that the tree verifies. Raises DataError at the first block that is damaged."""
        num_blocks = self._num_blocks(s)
        if suffix == HASHES:
            for level, size in enumerate(level_bytes(num_blocks)):
                yield from (self._read_pages(s, level, *pages) for pages in _cut(-(-size // PAGE_BYTES), PAGE_BYTES))
        else:
            read = self._verified_tokens if suffix == TOKENS else self._verified_ends
            yield from (read(s, *blocks) for blocks in _cut(num_blocks, self._tree(s).block_bytes))

    def _verified_tokens(self, s: int, first: int, stop: int) -> bytes:
        """The tokens of blocks first .. stop-1."""
        size, file = self._tree(s).block_bytes, self._files(s, TOKENS)
        start = first * size
        data = file.read(start, min(stop * size, self._manifest.shards[s].tokens * self._manifest.itemsize))
        expected = self._records(s, first, stop)["tokens"].tolist()
        for block, (at, hash_) in enumerate(zip(range(0, len(data), size), expected, strict=True), first):
            if xxhash.xxh3_64_intdigest(piece := data[at : at + size]) != hash_:
                raise file.damaged(start + at, start + at + len(piece), f"xxh3-64 of block {block}")
        return data

    def _verified_ends(self, s: int, first: int, stop: int) -> bytes:
        """The part of the index with the documents that end in blocks first .. stop-1."""
        file, bounds = self._files(s, ENDS), [8 * number for number in self._documents(s, first, stop)]
        data = memoryview(file.read(bounds[0], bounds[-1]))
        expected = self._records(s, first, stop)["ends"].tolist()
        for block, (start, end, hash_) in enumerate(zip(bounds, bounds[1:], expected, strict=False), first):
            if xxhash.xxh3_64_intdigest(data[start - bounds[0] : end - bounds[0]]) != hash_:
                raise file.damaged(start, end, f"xxh3-64 of the documents that end in block {block}")
        return bytes(data)

    def _documents(self, s: int, first: int, stop: int) -> list[int]:
        """Numbers of documents that end before each of the blocks first .. stop."""
        records = self._records(s, first, min(stop + 1, self._num_blocks(s)))
        last = [self._manifest.shards[s].documents] if stop == self._num_blocks(s) else []
        return records["documents"].tolist() + last

    def _records(self, s: int, first: int, stop: int) -> np.ndarray:
        return self._entries(s, 0, first, stop)

    def _entries(self, s: int, level: int, first: int, stop: int) -> np.ndarray:
        """Entries first .. stop-1 of a level: records, or hashes of the pages of the level below."""
        dtype = HASH if level else RECORD
        per_page = PAGE_BYTES // dtype.itemsize
        before = first // per_page * per_page
        pages = self._pages(s, level, first // per_page, -(-stop // per_page))
        return np.frombuffer(pages, dtype)[first - before : stop - before]

    def _read_pages(self, s: int, level: int, first: int, stop: int) -> bytes:
        """Pages first .. stop-1 of a level, verified by the level above."""
        sizes = level_bytes(self._num_blocks(s))
        if level == len(sizes) - 1:
            return self._tops(s)
        start = sum(sizes[:level])
        begin, end = start + first * PAGE_BYTES, start + min(stop * PAGE_BYTES, sizes[level])
        data = self._files(s, HASHES).read(begin, end)
        expected = self._entries(s, level + 1, first, stop)
        if (damaged := np.flatnonzero(page_hashes(data) != expected)).size:
            at = begin + int(damaged[0]) * PAGE_BYTES
            raise self._files(s, HASHES).damaged(at, min(at + PAGE_BYTES, end), f"xxh3-64 of a page of level {level}")
        return data

    def _read_top(self, s: int) -> bytes:
        *below, size = level_bytes(self._num_blocks(s))
        data = self._files(s, HASHES).read(sum(below), sum(below) + size)
        if xxhash.xxh3_128_hexdigest(data) != self._tree(s).root:
            raise self._files(s, HASHES).damaged(sum(below), sum(below) + size, "xxh3-128 of the top")
        return data

    def _open(self, s: int, suffix: str) -> RangeFile | ParquetRange:
        shard = self._manifest.shards[s]
        uri = join(self._uri, shard.file_name(suffix))
        if shard.groups and suffix == TOKENS:
            from data_pipelines.shards.parquet_range import ParquetRange  # pyarrow: not for every start

            return ParquetRange(uri, self._manifest.stored, shard.tokens, shard.groups)
        return RangeFile(uri, shard.files[suffix].bytes)

    def _tree(self, s: int) -> TreeRecord:
        tree = self._manifest.shards[s].tree
        assert tree is not None, s
        return tree

    def _block_tokens(self, s: int) -> int:
        return self._tree(s).block_bytes // self._manifest.itemsize

    def _num_blocks(self, s: int) -> int:
        return -(-self._manifest.shards[s].tokens * self._manifest.itemsize // self._tree(s).block_bytes)


def _between(ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Those of start + 1 .. stop."""
    return ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "right")]


def _ends_in(index: bytes) -> np.ndarray:
    return np.frombuffer(index, "<u8").astype(np.int64)


def _cut(count: int, item_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, stop) of items that together have at most PIECE_BYTES."""
    step = max(1, PIECE_BYTES // item_bytes)
    return ((first, min(first + step, count)) for first in range(0, count, step))
