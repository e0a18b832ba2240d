"""metrics.jsonl: written a row a step, and read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data_pipelines.base.files import write_whole
from train.metrics.row import Row


def read_rows(run_dir: Path) -> list[Row]:
    """One row a step. A line without its end is a step that is being written, or was when the run was killed."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a run directory with at least one finished step")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    if not rows:
        raise ValueError(f"{path} has no finished step yet")
    return rows


class JsonLines:
    """<run>/metrics.jsonl. Rows of steps after the one resumed from are dropped: they are about to be trained again."""

    def __init__(self, path: Path, *, resume_step: int):
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= resume_step]
        write_whole(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, allow_nan=False, default=os.fspath) + "\n")  # a picture is its path
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    """A run that was killed may have left half a line at the end."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
