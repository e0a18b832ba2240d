"""The windows that validation takes of a source: always the same ones, each read by the rank that uses it."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipelines.batches.loader import Batch, Window, read_window, stack
from data_pipelines.batches.windows import split_window
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.source import TokenSource


class HeldOutWindows:
    """Up to `num_windows` windows of a source's held-out part, evenly spread over it. Nothing is read before `read`.

    Raises DataError where the part is shorter than a window.
    """

    def __init__(self, source: TokenSource, *, seq_len: int, num_windows: int, vocab_size: int, intra_document: bool):
        available = source.num_windows(seq_len)
        if not available:
            raise DataError(
                f"{source.uri} has {source.num_tokens:,} tokens, less than one window of seq_len={seq_len}; raise "
                "data.held_out or lower training.seq_len"
            )
        count = min(num_windows, available)
        self._indices = [i * available // count for i in range(count)]
        self._source, self._seq_len, self._vocab_size = source, seq_len, vocab_size
        self._intra_document = intra_document

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, rows: Sequence[int]) -> Batch:
        """The windows of these numbers, 0 .. len - 1. Raises DataError where their tokens are not what was written."""
        return stack([self._window(self._indices[row]) for row in rows])

    def _window(self, index: int) -> Window:
        tokens = read_window(self._source, index, self._seq_len, self._vocab_size)
        edges = self._source.window_edges(index, self._seq_len) if self._intra_document else []
        return split_window(tokens, edges)
