"""Parquet with the ids of a document in each row: a list column `input_ids`, as tokenised data sets have it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.formats.foreign import Foreign, Hints
from data_pipelines.shards.manifest import join
from data_pipelines.shards.parquet_range import COLUMN, row_groups
from data_pipelines.shards.writer import token_dtype


def find_parquet(fs: Any, folder: str, names: list[str], hints: Hints) -> list[Foreign]:
    found = []
    for file in sorted(name for name in names if name.endswith(".parquet")):
        path = join(folder, file)
        try:
            with fs.open(path, "rb") as raw, pq.ParquetFile(raw) as parquet:
                schema = parquet.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: cannot be read as Parquet ({error}); fetch it again") from error
        if COLUMN not in schema.names or not _is_ids(schema.field(COLUMN).type):
            raise ValueError(
                f"{path}: expected a column {COLUMN} of lists of integers, got {', '.join(schema.names)}; text is "
                "tokenised with python -m data_pipelines.tokenize"
            )
        *groups, num_tokens = accumulate((len(ids) for ids, _ in row_groups(fs, path)), initial=0)

        def ends(path: str = path) -> Iterator[np.ndarray]:
            before = 0
            for ids, lengths in row_groups(fs, path):
                if (empty := np.flatnonzero(lengths == 0)).size:
                    raise ValueError(f"{path}: row {empty[0]:,} of a row group has no ids; leave such rows out")
                yield before + np.cumsum(lengths)
                before += len(ids)

        name = file.removesuffix(".parquet")
        dtype = hints.dtype or token_dtype(hints.vocab_size)
        shape = {"dtype": dtype, "num_tokens": num_tokens, "groups": tuple(groups)}
        found.append(Foreign(name=name, tokens_in=file, ends=ends, **shape))
    return found


def _is_ids(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type)
