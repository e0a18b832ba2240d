"""train/metrics/jsonl.py: what is read of a file that may be whole, cut or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.metrics.jsonl import CUT, JsonLines, count_rows, read_rows, require_rows

ROWS = '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text(ROWS)
    return tmp_path


def test_a_missing_and_an_empty_file_have_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path) == []
    assert count_rows(tmp_path) == 0
    (tmp_path / "metrics.jsonl").touch()
    assert read_rows(tmp_path) == []
    assert count_rows(tmp_path) == 0


def test_a_line_without_its_end_is_left_out(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4}')
    assert [row["step"] for row in require_rows(run_dir)] == [1, 2, 3]
    assert count_rows(run_dir) == 3


def test_rows_are_read_up_to_a_step(run_dir: Path) -> None:
    assert [row["step"] for row in read_rows(run_dir, up_to=2)] == [1, 2]
    assert read_rows(run_dir, up_to=0) == []


def test_rows_of_steps_that_are_trained_again_are_kept_start_after_start(run_dir: Path) -> None:
    for resume_step, cut in ((2, [3]), (1, [2]), (1, [])):
        rows = JsonLines(run_dir / "metrics.jsonl", resume_step=resume_step)
        rows.close()
        assert rows.cut == cut
    assert (run_dir / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert (run_dir / CUT).read_text() == '{"step": 3}\n{"step": 2}\n'


def test_where_no_row_is_cut_there_is_no_file_of_them(run_dir: Path) -> None:
    JsonLines(run_dir / "metrics.jsonl", resume_step=3).close()
    assert [entry.name for entry in run_dir.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("line", [b"\0\0\0", b'{"step": 3, "lo', b'{"loss": 1.0}', b"7", b"\xff\xfe"])
def test_a_damaged_line_is_named(run_dir: Path, line: bytes) -> None:
    (run_dir / "metrics.jsonl").write_bytes(ROWS.encode() + line + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 4: .*remove the line"):
        read_rows(run_dir)
