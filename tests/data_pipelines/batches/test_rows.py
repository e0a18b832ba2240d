from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.batches.rows import DataRow, data_rows
from data_pipelines.shards.manifest import DataError


def test_the_last_record_of_a_step_counts(tmp_path: Path):
    rows = [{"step": 1, "batch_digest": "0a"}, {"step": 2, "batch_digest": "0b"}, {"step": 1, "batch_digest": "0c"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert data_rows(tmp_path) == {1: DataRow(f"{12:016x}", ""), 2: DataRow(f"{11:016x}", "")}
    assert data_rows(tmp_path / "none") == {}


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "batch_digest": "0a"}\n{"step": 2, "ba')
    assert list(data_rows(tmp_path)) == [1]
    path.write_text('{"step": 1, "batch_digest": "0a"}\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: not the row of a step .*batch_digest"):
        data_rows(tmp_path)
    for damaged in (b"\xff\xfe\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"metrics\.jsonl, line 1: not the row of a step"):
            data_rows(tmp_path)
