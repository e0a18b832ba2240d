"""What a format says of its shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from data_pipelines.shards.manifest import TokenType


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a format may leave open, from the user and the tokenizer."""

    eos_id: int
    vocab_size: int
    dtype: TokenType | None = None
    """Of ids in files that do not say it; None: the narrowest that holds the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A shard: a file of tokens, and where its documents end."""

    name: str
    tokens_in: str
    """Name of the file in the folder."""
    dtype: TokenType
    num_tokens: int
    groups: tuple[int, ...] = ()
    """Tokens before each row group of a Parquet file; empty for raw ids."""
    ends: Callable[[], Iterator[np.ndarray]]
    """Where documents end, counted in tokens, exclusive, ascending: int64 pieces. Raises ValueError where that makes no
    sense."""


Find: TypeAlias = Callable[[Any, str, list[str], Hints], list[Foreign]]
"""(file system, folder, names in it, hints) -> its shards, in the order of their names; none where it has none of this
format. Raises ValueError for shards that contradict themselves, with file and byte."""


def checked_ends(ends_D: np.ndarray, num_tokens: int, where: str) -> np.ndarray:
    """Raises ValueError unless the ends grow, and the last one is the end of the tokens."""
    starts_D = np.concatenate([[0], ends_D[:-1]])
    wrong = np.flatnonzero(ends_D <= starts_D)
    if wrong.size:
        k = int(wrong[0])
        raise ValueError(f"{where}: document {k:,} ends at token {ends_D[k]:,} and begins at {starts_D[k]:,}")
    last = int(ends_D[-1]) if len(ends_D) else 0
    if last != num_tokens:
        raise ValueError(f"{where}: the documents end at token {last:,}, the file has {num_tokens:,} tokens")
    return ends_D


def whole_tokens(num_bytes: int, itemsize: int, where: str) -> int:
    """Raises ValueError for a file that ends inside of a token, and for an empty one."""
    if not num_bytes or num_bytes % itemsize:
        raise ValueError(f"{where}: {num_bytes:,} bytes are no whole number of ids of {itemsize} bytes; truncated?")
    return num_bytes // itemsize
