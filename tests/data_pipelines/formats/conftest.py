"""The same documents in every format that is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.formats.megatron import write_index

Documents = Sequence[Sequence[int]]


def write_raw(folder: Path, suffix: str, documents: Documents) -> None:
    (folder / f"a{suffix}").write_bytes(np.concatenate([np.array(one, "<u2") for one in documents]).tobytes())


def write_datatrove(folder: Path, documents: Documents) -> None:
    write_raw(folder, ".ds", documents)
    (folder / "a.ds.index").write_bytes(np.cumsum([len(one) for one in documents]).astype("<u8").tobytes())


def write_megatron(folder: Path, documents: Documents) -> None:
    write_raw(folder, ".bin", documents)
    (folder / "a.idx").write_bytes(write_index(np.array([len(one) for one in documents]), "uint16"))


def write_olmo(folder: Path, documents: Documents) -> None:
    write_raw(folder, ".npy", documents)


def write_parquet(folder: Path, documents: Documents) -> None:
    table = pa.table({"input_ids": [list(one) for one in documents], "url": ["x"] * len(documents)})
    pq.write_table(table, folder / "a.parquet", row_group_size=10)


WRITERS = {"datatrove": write_datatrove, "megatron": write_megatron, "olmo": write_olmo, "parquet": write_parquet}
