"""Reads what writer.py writes: all shards of a folder as one sequence of tokens. The layout is datatrove's."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

import numpy as np

from data_pipelines.base.rank import is_first_on_node
from data_pipelines.shards.manifest import NAMES, TOKENS, DataError, Manifest, join
from data_pipelines.shards.shard import BlockReader, ShardReader, TreeReader, VerifiedFile
from data_pipelines.shards.source import Place, TokenSource


class Source(TokenSource):
    """All shards of a folder as one sequence of tokens.

    Opening it reads the manifest, 1.6 KB a shard, and on the first rank of each node compares the size of every file
    with it: a listing asks a file system about each of thousands of files, and 2,048 of them would be millions of
    questions, which nobody but a node with its own disk could answer otherwise. Contents are verified as they are
    touched, by every rank. Raises DataError with every file that is missing, truncated or grown.
    """

    def __init__(self, uri: str):
        super().__init__(uri)
        self.manifest = self._manifest = Manifest.load(uri)
        if is_first_on_node() and (problems := self._manifest.size_problems(uri)):
            raise DataError("\n".join(str(problem) for problem in problems.values()))
        self._starts = [0, *accumulate(shard.tokens for shard in self._manifest.shards)]
        self._tree_reader, self._block_reader = TreeReader(uri, self._manifest), BlockReader(uri, self._manifest)
        self._names = lru_cache(64)(self._load_names)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.num_tokens, (start, stop, self.num_tokens)
        pieces = [self._reader(s).tokens(s, lo, hi) for s, lo, hi in self._spans(start, stop)]
        return np.concatenate(pieces).astype(np.int64)

    def document_ends(self, start: int, stop: int) -> np.ndarray:
        pieces = [self._starts[s] + self._reader(s).ends(s, lo, hi) for s, lo, hi in self._spans(start, stop)]
        ends = np.concatenate(pieces)
        return ends[ends < stop]

    def place(self, token: int) -> Place:
        s = bisect_right(self._starts, token) - 1
        document = self._reader(s).document(s, token - self._starts[s])
        return Place(self._manifest.shards[s].name, document, self._name(s, document))

    def _name(self, s: int, document: int) -> str:
        """Shards that others wrote may come without names: then a document is known by its number."""
        return self._names(s)[document] if NAMES in self._manifest.shards[s].files else f"document {document:,}"

    def position(self, token: int) -> str:
        s = bisect_right(self._starts, token) - 1
        offset = (token - self._starts[s]) * self._manifest.itemsize
        return f"{join(self.uri, self._manifest.shards[s].file_name(TOKENS))}, byte {offset:,}"

    def _spans(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Tokens start .. stop-1 as (shard, first, last + 1) counted inside each shard."""
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, stop - 1) - 1
        base, size = self._starts, self._manifest.shards
        spans = ((s, max(start - base[s], 0), min(stop - base[s], size[s].tokens)) for s in range(first, last + 1))
        return [(s, lo, hi) for s, lo, hi in spans if lo < hi]

    def _reader(self, s: int) -> ShardReader:
        return self._tree_reader if self._manifest.shards[s].tree else self._block_reader

    def _load_names(self, s: int) -> list[str]:
        shard = self._manifest.shards[s]
        file = VerifiedFile(join(self.uri, shard.name + NAMES), shard.files[NAMES], self._manifest.block_bytes)
        return b"".join(file.pieces()).decode().split("\n")
