"""What every format of shards gives to those who read it: one long sequence of tokens, cut into windows.

A window of seq_len target tokens reads seq_len + 1 tokens at stride seq_len: each token but the very first is a target
exactly once per epoch. Windows and documents may span shards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np


class Facts(Protocol):
    """What is known of a source before a token of it is read; shards/manifest.py has them in a file."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_documents(self) -> int: ...
    @property
    def max_token_id(self) -> int:
        """The largest token id in it."""
        ...

    @property
    def tokenizer(self) -> str:
        """sha256 of the tokenizer.json that made the ids, 64 hex digits."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with any token, not with the place where the files lie."""
        ...


class Place(NamedTuple):
    """A document inside a source."""

    shard: str
    document: int
    """Number in its shard, from 0."""
    name: str


class TokenSource(ABC):
    """The tokens of a folder as one sequence, numbered from 0. Extended once per layout: shards/prepared.py.

    Opening one checks what can be checked without reading tokens. Raises DataError with everything that is wrong.
    """

    manifest: Facts

    def __init__(self, uri: str):
        self.uri = uri

    @abstractmethod
    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Token ids start .. stop-1, int64 [stop - start]. Raises DataError where they are damaged or missing."""

    @abstractmethod
    def document_ends(self, start: int, stop: int) -> np.ndarray:
        """Every e with start < e < stop where one document ends and the next one begins, int64, ascending."""

    @abstractmethod
    def place(self, token: int) -> Place:
        """The document that token number `token` belongs to."""

    @abstractmethod
    def position(self, token: int) -> str:
        """Where token number `token` lies, for people: file and byte."""

    @property
    def num_tokens(self) -> int:
        """Tokens in one epoch."""
        return self.manifest.num_tokens

    def num_windows(self, seq_len: int) -> int:
        """Windows of `seq_len` target tokens in one epoch; a remainder shorter than that is left out."""
        return max(0, self.num_tokens - 1) // seq_len

    def window(self, index: int, seq_len: int) -> np.ndarray:
        """Token ids of window `index`, int64 [seq_len + 1]."""
        return self.tokens(index * seq_len, (index + 1) * seq_len + 1)

    def window_edges(self, index: int, seq_len: int) -> np.ndarray:
        """Where documents begin inside of window `index`, counted from its start: 1 .. seq_len, int64."""
        return self.document_ends(index * seq_len, (index + 1) * seq_len + 1) - index * seq_len
