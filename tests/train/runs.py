"""Starts the real program on ranks of this machine, and sends a signal to a rank where a test wants that.

A rank is a process of its own that calls train.__main__.main, forked from the server of launch/ranks.py. That module's
launch_ranks is not used: a test wants to know how every rank ended, not only the first that failed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import NamedTuple

from train.metrics.jsonl import read_rows
from train.metrics.row import Row
from train.process.warm import WARM, warm_up

RUN_TIMEOUT_S = 240.0  # a run takes 3 to 15 s on two cores, with 16 ranks 20 to 45 s
GRACE_S = 5.0  # for the other ranks to say what they saw, once one has failed

Hook = Callable[[], None]
"""Called in each rank before the program starts."""


class Kill(NamedTuple):
    """A signal to `rank` as soon as metrics.jsonl has a row of `step`."""

    rank: int
    step: int
    number: int = signal.SIGKILL


@dataclass(frozen=True, kw_only=True)
class Result:
    exit_codes: list[int | None]
    """One a rank; -n for signal n."""
    rows: list[Row]
    """metrics.jsonl."""
    output: str
    """What all ranks printed."""


def run(
    overrides: list[str], *, run_dir: Path, num_ranks: int, kill: Kill | None = None, hook: Hook | None = None
) -> Result:
    """`python -m train <overrides> run.dir=<run_dir>` on `num_ranks` ranks, to its end or to the kill."""
    with TemporaryDirectory() as folder:
        outputs = [Path(folder, f"rank{rank}.txt") for rank in range(num_ranks)]
        exit_codes = _run([*overrides, f"run.dir={run_dir}"], run_dir, outputs, kill=kill, hook=hook)
        output = "".join(file.read_text() for file in outputs if file.exists())
    return Result(exit_codes=exit_codes, rows=read_rows(run_dir), output=output)


def _run(
    overrides: list[str], run_dir: Path, outputs: list[Path], *, kill: Kill | None, hook: Hook | None
) -> list[int | None]:
    """Exit codes of as many ranks as there are `outputs`."""
    warm_up()
    launcher = {"WORLD_SIZE": str(len(outputs)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    ranks = [
        WARM.Process(
            target=_rank_main,
            args=(launcher | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, overrides),
            kwargs={"output": output, "hook": hook},
        )
        for rank, output in enumerate(outputs)
    ]
    for rank in ranks:
        rank.start()
    try:
        if kill is not None:
            _wait_for_row(run_dir, kill.step, ranks)
            _send(ranks[kill.rank], kill.number)
        _wait(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return [rank.exitcode for rank in ranks]


def _rank_main(environment: dict[str, str], overrides: list[str], *, output: Path, hook: Hook | None) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    import torch

    from train.__main__ import main

    torch.set_num_threads(1)  # OMP_NUM_THREADS comes too late: the server has loaded OpenMP
    _end_at_once()
    if hook is not None:
        hook()
    sys.exit(main(overrides))


def _end_at_once() -> None:
    """torchtitan's rank 0 sleeps for 2 s at the end of a run, so that a launcher does not stop the others; here is none
    that would, and the sleep would be a quarter of the time of a run."""
    from torchtitan import trainer

    trainer.time = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # type: ignore[assignment]


def _send(rank: ForkServerProcess, number: int) -> None:
    """Nothing where the rank has ended: its exit code tells."""
    assert rank.pid is not None
    with suppress(ProcessLookupError):
        os.kill(rank.pid, number)


def _wait_for_row(run_dir: Path, step: int, ranks: list[ForkServerProcess]) -> None:
    """Returns when the row is there; a run that ends before is a failure of the test."""
    while not any(row["step"] >= step for row in read_rows(run_dir)[-1:]):
        if connection.wait([rank.sentinel for rank in ranks], timeout=0.01):
            return


def _wait(ranks: list[ForkServerProcess]) -> None:
    """Until all have ended, or some time after the first failure: the others may hang in a collective, as they would
    without a launcher that stops them."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while running := [rank for rank in ranks if rank.exitcode is None]:
        if any(rank.exitcode for rank in ranks):
            deadline = min(deadline, time.monotonic() + GRACE_S)
        if not connection.wait([rank.sentinel for rank in running], timeout=deadline - time.monotonic()):
            return


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
