"""Reads what writer.py writes: all shards of a folder as one sequence of tokens. The layout is datatrove's."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

import numpy as np

from data_pipelines.shards.manifest import ENDS, NAMES, TOKENS, DataError, Manifest, VerifiedFile, join
from data_pipelines.shards.source import Place, TokenSource


class Source(TokenSource):
    """All shards of a folder as one sequence of tokens.

    Opening it compares the size of each file with the manifest; contents are verified as they are touched.
    Raises DataError with every file that is missing, truncated or grown.
    """

    def __init__(self, uri: str):
        super().__init__(uri)
        self.manifest = self._manifest = Manifest.load(uri)
        if problems := self._manifest.size_problems(uri):
            raise DataError("\n".join(str(problem) for problem in problems.values()))
        self._starts = [0, *accumulate(shard.tokens for shard in self._manifest.shards)]
        self._files: dict[str, VerifiedFile] = {}
        # An index takes megabytes and a source may have thousands of them.
        self._ends = lru_cache(64)(self._load_ends)
        self._names = lru_cache(64)(self._load_names)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.num_tokens, (start, stop, self.num_tokens)
        pieces = [self._shard_tokens(s, lo, hi) for s, lo, hi in self._spans(start, stop)]
        return np.concatenate(pieces).astype(np.int64)

    def document_ends(self, start: int, stop: int) -> np.ndarray:
        pieces = [self._starts[s] + self._ends(s) for s, _, _ in self._spans(start, stop)]
        ends = np.concatenate(pieces)
        return ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")]

    def place(self, token: int) -> Place:
        s = bisect_right(self._starts, token) - 1
        document = int(np.searchsorted(self._ends(s), token - self._starts[s], "right"))
        return Place(self._manifest.shards[s].name, document, self._name(s, document))

    def _name(self, s: int, document: int) -> str:
        """Shards that others wrote may come without names: then a document is known by its number."""
        return self._names(s)[document] if NAMES in self._manifest.shards[s].files else f"document {document:,}"

    def position(self, token: int) -> str:
        s = bisect_right(self._starts, token) - 1
        offset = (token - self._starts[s]) * self._manifest.itemsize
        return f"{join(self.uri, self._manifest.shards[s].name + TOKENS)}, byte {offset:,}"

    def _spans(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Tokens start .. stop-1 as (shard, first, last + 1) counted inside each shard."""
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, stop - 1) - 1
        base, size = self._starts, self._manifest.shards
        spans = ((s, max(start - base[s], 0), min(stop - base[s], size[s].tokens)) for s in range(first, last + 1))
        return [(s, lo, hi) for s, lo, hi in spans if lo < hi]

    def _shard_tokens(self, s: int, start: int, stop: int) -> np.ndarray:
        itemsize = self._manifest.itemsize
        data = self._file(s, TOKENS).read(start * itemsize, stop * itemsize)
        return np.frombuffer(data, np.dtype(self._manifest.dtype).newbyteorder("<"))

    def _load_ends(self, s: int) -> np.ndarray:
        return np.frombuffer(self._read(s, ENDS), "<u8").astype(np.int64)

    def _load_names(self, s: int) -> list[str]:
        return self._read(s, NAMES).decode().split("\n")

    def _read(self, s: int, suffix: str) -> bytes:
        file = self._file(s, suffix)
        return file.read(0, file.record.bytes)

    def _file(self, s: int, suffix: str) -> VerifiedFile:
        shard = self._manifest.shards[s]
        name = shard.name + suffix
        if name not in self._files:
            self._files[name] = VerifiedFile(join(self.uri, name), shard.files[suffix], self._manifest.block_bytes)
        return self._files[name]
