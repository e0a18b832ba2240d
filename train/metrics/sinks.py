"""Where a run's figures go: metrics.jsonl, W&B, one line on the console. Rank 0 only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipelines.base.rank import is_rank_0
from train.metrics.config import MetricsConfig
from train.metrics.console import Console
from train.metrics.jsonl import CUT, FILE_NAME, JsonLines, count_rows
from train.metrics.row import Row, Sink
from train.metrics.weights_and_biases import start_wandb
from train.schedule.timeline import Timeline


class Sinks:
    """All sinks of a run; the same rows go to each."""

    def __init__(self, sinks: list[Sink]):
        self._sinks = sinks

    def write(self, row: Row) -> None:
        for sink in self._sinks:
            sink.write(row)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(
    config: MetricsConfig, *, run_dir: Path, name: str, settings: dict[str, Any], timeline: Timeline, resume_step: int
) -> Sinks:
    """The sinks of this rank for the steps after `resume_step`: all on rank 0, none elsewhere.

    name, settings: what W&B shows as the run's name and configuration.
    """
    if not is_rank_0():
        return Sinks([])
    sinks = start_wandb(config, run_dir=run_dir, name=name, settings=settings)
    rows_path = run_dir / FILE_NAME
    rows = JsonLines(rows_path, resume_step=resume_step)
    sinks.append(rows)
    if rows.cut:
        print(
            f"train: the rows of steps {rows.cut[0]:,} to {rows.cut[-1]:,}, which are trained again, are in "
            f"{run_dir / CUT}",
            flush=True,
        )
    if (missing := resume_step - count_rows(run_dir)) > 0:
        print(
            f"train: {run_dir / FILE_NAME} has no rows of {missing:,} of the {resume_step:,} steps so far", flush=True
        )
    if config.console:
        seen = timeline.step(resume_step + 1).first_window * timeline.seq_len
        sinks.append(Console(tokens=timeline.num_windows * timeline.seq_len, seen=seen, num_steps=timeline.num_steps))
    return Sinks(sinks)
