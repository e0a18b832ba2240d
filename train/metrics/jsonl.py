"""metrics.jsonl: written a row a step, and read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.base.files import flush, write_whole
from train.metrics.row import Row

FILE_NAME = "metrics.jsonl"
CUT = "metrics.cut.jsonl"
"""Rows of steps that were trained again, start after start, oldest first."""


def read_rows(run_dir: Path, *, up_to: int | None = None) -> list[Row]:
    """The rows of a run, a step each, up to the step `up_to` (None: all); none where the file is missing or empty.

    A line without its end is left out: its step is being written, or was when the run was killed. Raises ValueError
    with file and line where a complete line is no row.
    """
    path = run_dir / FILE_NAME
    return [row for _, row in _complete_lines(_read(path), path) if up_to is None or row["step"] <= up_to]


def require_rows(run_dir: Path) -> list[Row]:
    """The rows of a run, at least one. Raises ValueError where there is none."""
    path = run_dir / FILE_NAME
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a run directory with at least one finished step")
    if not (rows := read_rows(run_dir)):
        raise ValueError(f"{path} has no finished step yet")
    return rows


def count_rows(run_dir: Path) -> int:
    """How many rows there are, without reading what is in them."""
    path = run_dir / FILE_NAME
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def cut_rows(path: Path, *, after: int, into: Path | None = None) -> tuple[list[Row], list[int]]:
    """Leaves the rows up to step `after`, and no torn line. The others are added to the file `into`. Returns those that
    it leaves, and the steps of the others."""
    text = _read(path)
    lines = list(_complete_lines(text, path))
    kept = [(line, row) for line, row in lines if row["step"] <= after]
    cut = [(line, row) for line, row in lines if row["step"] > after]
    if cut and into:
        with into.open("a", encoding="utf-8") as file:  # first: better twice than lost
            file.writelines(line for line, _ in cut)
        flush(into)
    if (left := "".join(line for line, _ in kept)) != text:
        write_whole(path, left)
    return [row for _, row in kept], [row["step"] for _, row in cut]


class JsonLines:
    """<run>/metrics.jsonl. Rows of steps after the one resumed from move to CUT: they are about to be trained again."""

    def __init__(self, path: Path, *, resume_step: int):
        self.kept, self.cut = cut_rows(path, after=resume_step, into=path.with_name(CUT))
        """The rows of the steps before, and the steps of those that moved."""
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row, allow_nan=False, default=os.fspath) + "\n")  # a picture is its path
        self._file.flush()

    def close(self, exit_code: int = 0) -> None:
        self._file.close()


def _read(path: Path) -> str:
    """Empty where there is no file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _complete_lines(text: str, path: Path) -> Iterator[tuple[str, Row]]:
    """Each line with its end, as text and as a row. path: that of the text, for messages."""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            yield line, _parse(line, where=f"{path}, line {number}")


def _parse(line: str, *, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: damaged ({error}); remove the line, or restore the file from a copy") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError(f"{where}: not the row of a step; remove the line, or restore the file from a copy")
    return row  # type: ignore[return-value]  # this program wrote it
