"""What W&B has been told of a run, read from its client's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protocol

from train.metrics.wandb_files import read_records, record_files


def records(run_dir: Path) -> list[Any]:
    """wandb_internal_pb2.Record of all starts, in order."""
    files = record_files(run_dir, (run_dir / "wandb_id").read_text())
    return [protocol.Record.FromString(record.payload) for path in files for record in read_records(path)]  # type: ignore[attr-defined]


def history(run_dir: Path) -> list[dict[str, Any]]:
    """The rows, `_step` among their keys."""
    return [_figures(record.history) for record in records(run_dir) if record.HasField("history")]


def _figures(history: Any) -> dict[str, Any]:
    return {"/".join([*item.nested_key] or [item.key]): json.loads(item.value_json) for item in history.item}
