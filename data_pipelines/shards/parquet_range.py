"""The ids of a Parquet file as one run of bytes, as a raw file would have them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.shards.manifest import REMEDY, DataError
from data_pipelines.shards.storage import locate, patiently

COLUMN = "input_ids"
GROUPS_KEPT = 4
"""Row groups that a reader keeps decoded: a window of neighbours needs one, or two."""


def row_groups(fs: Any, path: str, groups: list[int] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, number of ids of each row) of each row group. Raises pa.ArrowException, OSError."""
    with fs.open(path, "rb") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as parquet:
        for group in range(parquet.num_row_groups) if groups is None else groups:
            column = parquet.read_row_group(group, columns=[COLUMN])[COLUMN].combine_chunks()
            lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            lists.validate(full=True)
            offsets = lists.offsets.to_numpy()
            ids = lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
            yield ids, np.diff(offsets).astype(np.int64)


class ParquetRange:
    """Range reads of the ids in it, little-endian and of `dtype`; groups: tokens before each of its row groups."""

    def __init__(self, uri: str, dtype: np.dtype, num_tokens: int, groups: Sequence[int]):
        self.uri = uri
        self._dtype = dtype
        self._edges = [*groups, num_tokens]
        self._fs, self._path = locate(uri)
        self._group = lru_cache(GROUPS_KEPT)(self._read_group)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop-1. Raises DataError where the file does not have them."""
        itemsize = self._dtype.itemsize
        first, last = start // itemsize, -(-stop // itemsize)
        pieces = []
        for k in range(bisect_right(self._edges, first) - 1, bisect_left(self._edges, last)):
            begin = self._edges[k]
            pieces.append(self._group(k)[max(0, first - begin) : last - begin])
        return b"".join(piece.tobytes() for piece in pieces)[start - first * itemsize :][: stop - start]

    def damaged(self, start: int, stop: int, hash_name: str) -> DataError:
        """The error that says that these bytes are not what was written."""
        itemsize = self._dtype.itemsize
        return DataError(
            f"{self.uri}: ids {start // itemsize:,} to {stop // itemsize:,} differ from what the manifest recorded "
            f"({hash_name}); {REMEDY}"
        )

    def _read_group(self, k: int) -> np.ndarray:
        def read() -> np.ndarray:
            ((ids, _),) = row_groups(self._fs, self._path, [k])
            return ids

        try:
            ids = patiently(self.uri, read)
        except FileNotFoundError as error:
            raise DataError(f"{self.uri} is missing; {REMEDY}") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self.uri}: row group {k} cannot be read ({error}); {REMEDY}") from error
        if len(ids) != (expected := self._edges[k + 1] - self._edges[k]):
            raise DataError(f"{self.uri}: row group {k} has {len(ids):,} ids, expected {expected:,}; {REMEDY}")
        return ids.astype(self._dtype)
