"""A start of a run, as far as W&B can see it: rows without a training.

    python -m tests.train.metrics.one_start RUN_DIR FIRST LAST HOW      for one that does not come back

kill: ends this process and W&B's by SIGKILL after the last row, as a cluster does. hang: SIGSTOP for W&B's process
after the first row; prints the seconds of the slowest step and of all.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import wandb

from train.metrics import follower
from train.metrics.config import MetricsConfig
from train.metrics.events import Event, History
from train.metrics.row import Row
from train.metrics.sinks import open_sinks
from train.metrics.weights_and_biases import RunFacts
from train.schedule.config import BatchStage, Phase, ScheduleConfig
from train.schedule.timeline import Timeline

SEQ_LEN, BATCH = 10, 2
SETTINGS = {"run": {"name": "mine"}, "model": {"dim": 64, "rope_theta": None}, "schedule": {"phases": ["a", "b"]}}


def timeline() -> Timeline:
    """10 steps of phase a, then 5,000 of phase b, 20 tokens each."""
    phases = [Phase(name="a", tokens=200), Phase(name="b", tokens=100_000)]
    return Timeline(ScheduleConfig(phases=phases, batch=[BatchStage(from_tokens=0, sequences=BATCH)]), SEQ_LEN)


def row_of(step: int) -> Row:
    figures: dict[str, Any] = {"step": step, "tokens": step * SEQ_LEN * BATCH, "phase": timeline().step(step).phase}
    figures |= {"loss": 1 / step, "grad_norm": 1.0, "seconds": {"total": 0.5}, "by_layer": {"x": {"2": 1.0}}}
    return cast(Row, figures)


def count_starts(run_dir: Path) -> int:
    """That W&B has seen."""
    return len(list(run_dir.glob("wandb/*run-*/run-*.wandb*")))


def take_steps(
    run_dir: Path, first: int, last: int, *, how: str = "", mode: Any = "offline", rewinds: Sequence[Event] = ()
) -> float:
    """Returns the seconds of the slowest step."""
    num_starts, starts = count_starts(run_dir), run_dir / "starts.txt"
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
    start = {"event": "start", "time": 0.0, "host": "n1", "step": first - 1}
    facts = RunFacts(
        run_dir=run_dir,
        name="mine",
        settings=SETTINGS,
        timeline=timeline(),
        history=History([start] * len(starts.read_text()), rewinds, {"commit": "abc", "dirty": False}),
    )
    config = MetricsConfig(wandb=mode, console=False)
    sinks = open_sinks(config, facts, resume_step=first - 1, last_step=last)
    slowest = 0.0
    for step in range(first, last + 1):
        started = time.monotonic()
        sinks.write(row_of(step))
        slowest = max(slowest, time.monotonic() - started)
        if how == "hang" and step == first:
            follower.signal_service(signal.SIGSTOP)
    if how == "kill":
        while count_starts(run_dir) == num_starts:
            time.sleep(0.1)
        time.sleep(0.5)  # until W&B has it all
        follower.signal_service(signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    sinks.close()
    with suppress(OSError):  # of a client that hung
        wandb.teardown()  # as at the end of a process: its files are whole, its id is free
    return slowest


if __name__ == "__main__":
    follower.CLOSE_S = 2.0
    began = time.monotonic()
    print(take_steps(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), how=sys.argv[4]), time.monotonic() - began)
