"""Where a run's figures go: metrics.jsonl, W&B, one line on the console. Rank 0 only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.base.rank import is_rank_0
from train.metrics.config import MetricsConfig
from train.metrics.console import Console
from train.metrics.events import History
from train.metrics.jsonl import CUT, FILE_NAME, JsonLines
from train.metrics.row import Row, Sink
from train.metrics.spikes import WINDOW, SpikeAlarm
from train.metrics.weights_and_biases import start_wandb
from train.schedule.timeline import Timeline


class Sinks:
    """All sinks of a run; the same rows go to each, in order. What the spike alarm says is part of them."""

    def __init__(self, sinks: Sequence[Sink], *, spikes: SpikeAlarm | None = None):
        self._sinks = sinks
        self._spikes = spikes or SpikeAlarm()

    def write(self, row: Row) -> None:
        if self._sinks and (spike := self._spikes.observe(row)):
            row["spike"] = spike
        for sink in self._sinks:
            sink.write(row)

    def close(self, exit_code: int = 0) -> None:
        """exit_code: of the process, as far as it is known."""
        for sink in self._sinks:
            sink.close(exit_code)


def open_sinks(
    config: MetricsConfig,
    *,
    run_dir: Path,
    name: str,
    settings: dict[str, Any],
    timeline: Timeline,
    resume_step: int,
    history: History,
) -> Sinks:
    """The sinks of this rank for the steps after `resume_step`: all on rank 0, none elsewhere.

    name, settings, history: what W&B shows as the run's name, its configuration and its starts.
    """
    if not is_rank_0():
        return Sinks([])
    rows = JsonLines(run_dir / FILE_NAME, resume_step=resume_step)
    if rows.cut:
        print(
            f"train: the rows of steps {rows.cut[0]:,} to {rows.cut[-1]:,}, which are trained again, are in "
            f"{run_dir / CUT}",
            flush=True,
        )
    if (missing := resume_step - len(rows.kept)) > 0:
        print(
            f"train: {run_dir / FILE_NAME} has no rows of {missing:,} of the {resume_step:,} steps so far", flush=True
        )
    sinks: list[Sink] = [rows]
    sinks += start_wandb(
        config,
        run_dir=run_dir,
        name=name,
        settings=settings,
        timeline=timeline,
        resume_step=resume_step,
        history=history,
    )
    if config.console:
        seen = timeline.step(resume_step + 1).first_window * timeline.seq_len
        sinks.append(Console(tokens=timeline.num_windows * timeline.seq_len, seen=seen, num_steps=timeline.num_steps))
    return Sinks(sinks, spikes=_primed_alarm(rows.kept))


def _primed_alarm(before: Sequence[Row]) -> SpikeAlarm:
    """An alarm that knows the steps before this start, so that a resumed run says what an unbroken one would."""
    alarm = SpikeAlarm()
    for row in before[-2 * WINDOW :]:
        alarm.observe(row)
    return alarm
