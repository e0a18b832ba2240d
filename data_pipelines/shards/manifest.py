"""manifest.json: what a folder of shards must contain, to the byte. Written last: a folder without one is unfinished.

Every file has its size, a sha256 for the archive, and hashes for those who read it: a flipped bit is an error before it
is a gradient. Tokens and the ends of documents have theirs in a tree (tree.py), whose root is here; names, and all
files of shards without a tree, have an xxh3-128 here for each block of 16 MiB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
import xxhash
from pydantic import TypeAdapter, ValidationError

from data_pipelines.shards.storage import locate, patiently, reaching
from data_pipelines.shards.tree import level_bytes

BLOCK_BYTES = 16 * 2**20
TOKENS, ENDS, NAMES, HASHES = ".ds", ".ds.index", ".ds.names", ".ds.hashes"
"""Suffixes of the files of a shard; writer.py says what is in them."""
IN_TREE = frozenset({TOKENS, ENDS, HASHES})
"""What the tree of a shard verifies."""
FILE_NAME = "manifest.json"
NEWEST = 3
"""Version of manifests that are written."""
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
    blocks: tuple[str, ...] = ()
    """xxh3-128 of each block of `Manifest.block_bytes`, the last one shorter; empty for what a tree verifies."""


@dataclass(frozen=True, kw_only=True)
class TreeRecord:
    """What the tree of a shard must be."""

    block_bytes: int
    """Bytes of tokens that a record covers, whole tokens."""
    root: str
    """xxh3-128 of its top, 32 hex digits."""


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
    tree: TreeRecord | None = None
    """In the file HASHES; versions until f4300b6 wrote none."""
    tokens_in: str | None = None
    """File that has the tokens, in the folder or anywhere else, where others wrote it: not name + TOKENS."""
    groups: tuple[int, ...] = ()
    """Tokens before each of its row groups, where it is Parquet."""

    def file_name(self, suffix: str) -> str:
        """Name of one of its files, or its URI where it does not lie in the folder."""
        return self.tokens_in if suffix == TOKENS and self.tokens_in else self.name + suffix

    def check(self, dtype: TokenType, block_bytes: int) -> None:
        """Raises ValueError where it contradicts itself. block_bytes: of the manifest."""
        itemsize = np.dtype(dtype).itemsize
        if missing := {TOKENS, ENDS, *({HASHES} if self.tree else ())} - self.files.keys():
            raise ValueError(f"shard {self.name}: no {', '.join(sorted(missing))} among its files")
        if not self.groups and (got := self.files[TOKENS].bytes) != self.tokens * itemsize:
            raise ValueError(f"shard {self.name}: {self.tokens:,} tokens of type {dtype} are not {got:,} bytes")
        if (got := self.files[ENDS].bytes) != self.documents * 8:
            raise ValueError(f"shard {self.name}: the ends of {self.documents:,} documents are not {got:,} bytes")
        if self.tree:
            self._check_tree(self.tree, itemsize)
        for suffix, record in self.files.items():
            count = 0 if self.tree and suffix in IN_TREE else -(-record.bytes // block_bytes)
            if len(record.blocks) != count:
                raise ValueError(
                    f"{self.name}{suffix}: {record.bytes:,} bytes are {count:,} blocks, got {len(record.blocks):,} of "
                    "them"
                )

    def _check_tree(self, tree: TreeRecord, itemsize: int) -> None:
        if tree.block_bytes < 1 or tree.block_bytes % itemsize:
            raise ValueError(f"shard {self.name}: tree.block_bytes={tree.block_bytes}: no multiple of {itemsize}")
        num_blocks = -(-self.tokens * itemsize // tree.block_bytes)
        if (got := self.files[HASHES].bytes) != sum(level_bytes(num_blocks)):
            raise ValueError(f"shard {self.name}: the tree of {num_blocks:,} blocks is not {got:,} bytes")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The shards of a folder, in the order in which they are read. Raises ValueError where it contradicts itself."""

    version: Literal[1, 2, 3] = 2
    """1 had no trees, and hashes of all blocks here: 102 MB for 10T tokens of 4 bytes. 3 has tokens in files of
    others."""
    dtype: TokenType
    """Of the token ids, little-endian."""
    eos_id: int
    """Token that ends each document."""
    tokenizer: str
    """sha256 of the tokenizer.json that made the ids, 64 hex digits."""
    block_bytes: int = BLOCK_BYTES
    """Bytes that one hash of `FileRecord.blocks` covers."""
    shards: tuple[ShardRecord, ...]

    def __post_init__(self) -> None:
        if self.block_bytes < 1:
            raise ValueError(f"block_bytes={self.block_bytes}: must be at least 1")
        if not self.shards:
            raise ValueError("shards=[]: must name at least one")
        for shard in self.shards:
            shard.check(self.dtype, self.block_bytes)

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
    def stored(self) -> np.dtype:
        """How a token id is stored."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change with any token, not with the place where the files lie."""
        return xxhash.xxh3_128_hexdigest("".join(shard.files[TOKENS].sha256 for shard in self.shards).encode())

    def files(self) -> Iterator[tuple[str, FileRecord]]:
        """(name, what it must be) of every file, shard by shard."""
        for shard in self.shards:
            for suffix, record in shard.files.items():
                yield shard.file_name(suffix), record

    def size_problems(self, uri: str) -> dict[str, DataError]:
        """File name -> what is wrong with its size, for every file that is missing, truncated or grown: one listing."""
        folders = {join(uri, name).rpartition("/")[0] for name, _ in self.files()}
        sizes = {file: size for folder in folders for file, size in _sizes(folder).items()}
        problems = {}
        for name, record in self.files():
            if (file := join(uri, name)) not in sizes:
                problems[name] = DataError(f"{file} is missing; {REMEDY}")
            elif sizes[file] != record.bytes:
                problems[name] = DataError(f"{file}: expected {record.bytes:,} bytes, got {sizes[file]:,}; {REMEDY}")
        return problems

    @classmethod
    def load(cls, uri: str) -> Manifest:
        """The manifest of the folder `uri`. Raises DataError if there is none or it makes no sense."""
        fs, folder = locate(uri)
        try:
            content = patiently(join(uri, FILE_NAME), lambda: fs.cat_file(join(folder, FILE_NAME)))
        except FileNotFoundError as err:
            raise DataError(
                f"{join(uri, FILE_NAME)} is missing: not a folder of shards, or it was not finished; "
                "shards that others wrote get one by python -m data_pipelines.index"
            ) from err
        try:
            return TypeAdapter(cls).validate_json(content)
        except ValidationError as err:
            if (version := _version(content)) > NEWEST:
                raise DataError(
                    f"{join(uri, FILE_NAME)} has version {version}, which a later version of this program wrote; this "
                    f"one reads up to {NEWEST}: use the other one, or prepare the data with this one in another folder"
                ) from err
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


def join(uri: str, name: str) -> str:
    """The URI of `name` in the folder `uri`; one that says itself where it is stays so."""
    return name if "://" in name or name.startswith("/") else f"{uri.rstrip('/')}/{name}"


def _sizes(folder: str) -> dict[str, int]:
    """URI of each file in a folder -> its bytes; none where there is no folder."""
    fs, path = locate(folder)
    try:
        listing = patiently(folder, lambda: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {join(folder, info["name"].rsplit("/", 1)[-1]): info["size"] for info in listing}


def _version(content: bytes) -> int:
    """That a manifest says of itself, or 0."""
    try:
        return int(json.loads(content)["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _first_of(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False)
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg']}" + (f", and {len(others)} more" if others else "")
