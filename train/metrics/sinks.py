"""Where a run's figures go: metrics.jsonl, W&B, one line on the console. Rank 0 only."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipelines.base.rank import is_rank_0
from train.metrics.config import MetricsConfig
from train.metrics.console import Console
from train.metrics.jsonl import CUT, FILE_NAME, JsonLines
from train.metrics.row import Row, Sink
from train.metrics.spikes import WINDOW, SpikeAlarm
from train.metrics.weights_and_biases import RunFacts, start_wandb


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


def open_sinks(config: MetricsConfig, run: RunFacts, *, resume_step: int, last_step: int) -> Sinks:
    """The sinks of this rank for the steps after `resume_step`, to `last_step`: all on rank 0, none elsewhere."""
    if not is_rank_0():
        return Sinks([])
    rows = JsonLines(run.run_dir / FILE_NAME, resume_step=resume_step)
    if rows.cut:
        print(
            f"train: the rows of steps {rows.cut[0]:,} to {rows.cut[-1]:,}, which are trained again, are in "
            f"{run.run_dir / CUT}",
            flush=True,
        )
    if (missing := resume_step - len(rows.kept)) > 0:
        print(
            f"train: {run.run_dir / FILE_NAME} has no rows of {missing:,} of the {resume_step:,} steps so far",
            flush=True,
        )
    sinks: list[Sink] = [rows]
    sinks += start_wandb(config, run, resume_step=resume_step)
    if config.console:
        seen, tokens = (run.timeline.tokens_after(step) for step in (resume_step, last_step))
        sinks.append(Console(tokens=tokens, seen=seen, num_steps=last_step))
    return Sinks(sinks, spikes=_primed_alarm(rows.kept))


def _primed_alarm(before: Sequence[Row]) -> SpikeAlarm:
    """An alarm that knows the steps before this start, so that a resumed run says what an unbroken one would."""
    alarm = SpikeAlarm()
    for row in before[-2 * WINDOW :]:
        alarm.observe(row)
    return alarm
