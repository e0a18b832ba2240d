"""manifest.json: what a folder of shards must contain, to the byte. Written last: a folder without one is unfinished.

Every file has its size, a sha256 for the archive, and an xxh3-128 for each block of 16 MiB: hashing runs at 9 GB/s, so
readers verify a block the first time they touch it, and a flipped bit is an error before it is a gradient.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import xxhash
from pydantic import TypeAdapter, ValidationError

from data_pipelines.shards.storage import locate, reaching

BLOCK_BYTES = 16 * 2**20
TOKENS, ENDS, NAMES = ".ds", ".ds.index", ".ds.names"
"""Suffixes of the files of a shard; writer.py says what is in them."""
FILE_NAME = "manifest.json"
REMEDY = "restore it, or delete its folder and prepare the data again"


class DataError(OSError):
    """Prepared data that is missing, damaged or of another kind than what is asked for."""


TokenType: TypeAlias = Literal["uint16", "uint32"]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file must be."""

    bytes: int
    sha256: str
    """64 hex digits."""
    blocks: tuple[str, ...]
    """xxh3-128 of each block of `block_bytes`, the last one shorter."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a shard must be."""

    name: str
    """Its files are named name + suffix."""
    tokens: int
    documents: int
    max_token_id: int
    files: dict[str, FileRecord]
    """Suffix -> file. NAMES may be missing in shards that others wrote."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The shards of a folder, in the order in which they are read. Raises ValueError where it contradicts itself."""

    version: Literal[1] = 1
    dtype: TokenType
    """Of the token ids, little-endian."""
    eos_id: int
    """Token that ends each document."""
    tokenizer: str
    """sha256 of the tokenizer.json that made the ids, 64 hex digits."""
    block_bytes: int = BLOCK_BYTES
    """Bytes that one hash covers."""
    shards: tuple[ShardRecord, ...]

    def __post_init__(self) -> None:
        if self.block_bytes < 1:
            raise ValueError(f"block_bytes={self.block_bytes}: must be at least 1")
        if not self.shards:
            raise ValueError("shards=[]: must name at least one")
        for shard in self.shards:
            if missing := {TOKENS, ENDS} - shard.files.keys():
                raise ValueError(f"shard {shard.name}: no {', '.join(sorted(missing))} among its files")
            if (got := shard.files[TOKENS].bytes) != shard.tokens * self.itemsize:
                raise ValueError(
                    f"shard {shard.name}: {shard.tokens:,} tokens of type {self.dtype} are not {got:,} bytes"
                )
            if (got := shard.files[ENDS].bytes) != shard.documents * 8:
                raise ValueError(f"shard {shard.name}: the ends of {shard.documents:,} documents are not {got:,} bytes")
        for name, record in self.files():
            if len(record.blocks) != (count := -(-record.bytes // self.block_bytes)):
                raise ValueError(
                    f"{name}: {record.bytes:,} bytes are {count:,} blocks, got {len(record.blocks):,} of them"
                )

    @property
    def num_tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def num_documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def max_token_id(self) -> int:
        """The largest id in any shard."""
        return max(shard.max_token_id for shard in self.shards)

    @property
    def itemsize(self) -> int:
        """Bytes of a token id."""
        return np.dtype(self.dtype).itemsize

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change with any token, not with the place where the files lie."""
        return xxhash.xxh3_128_hexdigest("".join(shard.files[TOKENS].sha256 for shard in self.shards).encode())

    def files(self) -> Iterator[tuple[str, FileRecord]]:
        """(name, what it must be) of every file, shard by shard."""
        for shard in self.shards:
            for suffix, record in shard.files.items():
                yield shard.name + suffix, record

    def size_problems(self, uri: str) -> dict[str, DataError]:
        """File name -> what is wrong with its size, for every file that is missing, truncated or grown: one listing."""
        fs, folder = locate(uri)
        with reaching(uri):
            sizes = {info["name"].rsplit("/", 1)[-1]: info["size"] for info in fs.ls(folder, detail=True)}
        problems = {}
        for name, record in self.files():
            if name not in sizes:
                problems[name] = DataError(f"{join(uri, name)} is missing; {REMEDY}")
            elif sizes[name] != record.bytes:
                problems[name] = DataError(
                    f"{join(uri, name)}: expected {record.bytes:,} bytes, got {sizes[name]:,}; {REMEDY}"
                )
        return problems

    @classmethod
    def load(cls, uri: str) -> Manifest:
        """The manifest of the folder `uri`. Raises DataError if there is none or it makes no sense."""
        fs, folder = locate(uri)
        try:
            with reaching(uri):
                content = fs.cat_file(join(folder, FILE_NAME))
            return TypeAdapter(cls).validate_json(content)
        except FileNotFoundError as err:
            raise DataError(
                f"{join(uri, FILE_NAME)} is missing: not a folder of shards, or it was not finished"
            ) from err
        except ValidationError as err:
            raise DataError(f"{join(uri, FILE_NAME)} is no manifest ({_first_of(err)}); {REMEDY}") from err

    @staticmethod
    def exists(uri: str) -> bool:
        """Whether the folder `uri` is finished."""
        fs, folder = locate(uri)
        with reaching(uri):
            return fs.exists(join(folder, FILE_NAME))

    def save(self, uri: str) -> None:
        """Write by rename: readers see the whole manifest or none."""
        fs, folder = locate(uri)
        path = join(folder, FILE_NAME)
        fs.pipe_file(path + ".tmp", json.dumps(asdict(self), indent=1).encode())
        fs.mv(path + ".tmp", path)


class HashingWriter:
    """A binary file that takes down its own FileRecord while it is written."""

    def __init__(self, file: BinaryIO, block_bytes: int = BLOCK_BYTES):
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
        view = memoryview(data)
        while view:
            room = self._block_bytes - self._bytes % self._block_bytes
            piece, view = view[:room], view[room:]
            self._block.update(piece)
            self._bytes += len(piece)
            if len(piece) == room:
                self._end_block()

    def record(self) -> FileRecord:
        """Of all that was written; nothing may be written after it."""
        if self._bytes % self._block_bytes:
            self._end_block()
        return FileRecord(bytes=self._bytes, sha256=self._sha256.hexdigest(), blocks=tuple(self._blocks))

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = xxhash.xxh3_128()


class VerifiedFile:
    """Range reads of a file that a manifest describes; each block is verified when it is first touched."""

    def __init__(self, uri: str, record: FileRecord, block_bytes: int):
        self.uri = uri
        self.record = record
        self._block_bytes = block_bytes
        self._fs, self._path = locate(uri)
        self._verified: set[int] = set()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop-1. Raises DataError if they are not there or not the ones that were written."""
        for block in range(start // self._block_bytes, -(-stop // self._block_bytes)):
            self.verify_block(block)
        return self._fetch(start, stop)

    def verify_block(self, block: int) -> None:
        """Reads block number `block` unless that was done before. Raises DataError where it is not what was written."""
        if block not in self._verified:
            self.read_block(block)

    def read_block(self, block: int) -> bytes:
        """Block number `block`, verified. Raises DataError where it is not what was written."""
        start = block * self._block_bytes
        data = self._fetch(start, min(start + self._block_bytes, self.record.bytes))
        if xxhash.xxh3_128_hexdigest(data) != self.record.blocks[block]:
            raise DataError(
                f"{self.uri}: bytes {start:,} to {start + len(data):,} differ from what the manifest recorded "
                f"(xxh3-128 of block {block}); {REMEDY}"
            )
        self._verified.add(block)
        return data

    def _fetch(self, start: int, stop: int) -> bytes:
        try:
            with reaching(self.uri):
                data = self._fs.cat_file(self._path, start=start, end=stop)
        except FileNotFoundError as err:
            raise DataError(f"{self.uri} is missing; {REMEDY}") from err
        # A short read is how a truncated or still growing file looks; nothing may be made up for the rest.
        if len(data) != stop - start:
            raise DataError(
                f"{self.uri}: asked for bytes {start:,} to {stop:,}, got {len(data):,} bytes; the manifest says the "
                f"file has {self.record.bytes:,}; {REMEDY}"
            )
        return data


def join(uri: str, name: str) -> str:
    """The URI of `name` in the folder `uri`."""
    return f"{uri.rstrip('/')}/{name}"


def _first_of(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False)
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg']}" + (f", and {len(others)} more" if others else "")
