"""What a run is when a start of it opens its sinks: its starts, its rewinds, its code."""

from __future__ import annotations

from pathlib import Path

from data_pipelines.base.rank import is_rank_0
from train.checkpoint.rewind import read_rewinds
from train.metrics.events import History
from train.process.code import code_version
from train.process.starts import read_events


def read_history(run_dir: Path) -> History:
    """On rank 0, which alone has sinks; elsewhere empty."""
    if not is_rank_0():
        return History()
    return History(read_events(run_dir), read_rewinds(run_dir), code_version())
