"""What the rows of a run say of its data. train writes them; here only two of their keys are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from data_pipelines.shards.manifest import DataError

FILE_NAME = "metrics.jsonl"


class DataRow(NamedTuple):
    """Of one step."""

    digest: str
    """Of its global batch, 16 hex digits."""
    chain: str
    """Of all digests up to it, 32 hex digits; empty in the rows of earlier versions."""


def data_rows(run_dir: Path) -> dict[int, DataRow]:
    """Step -> its row; the last line of a step counts, since a resumed run may repeat steps.

    A line that is being written is left out. Raises DataError for a line that is no row.
    """
    path = run_dir / FILE_NAME
    # what is no UTF-8 is no row, as train/metrics/jsonl.py has it
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = {}
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = DataRow(f"{int(row['batch_digest'], 16):016x}", str(row.get("batch_chain", "")))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not the row of a step ({error!r}); restore the file from a copy"
            ) from error
    return rows
