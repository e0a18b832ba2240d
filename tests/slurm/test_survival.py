"""What a cluster does to a run, on a real SLURM: whatever it is, the losses are those of the run that nobody touched.

A battery: ten runs of four ranks, most of them started twice.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from data_pipelines.base.errors import REQUEUE_EXIT
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import (
    TRAIN_S,
    Losses,
    job_log,
    losses,
    on_cluster,
    rank_processes,
    submitted_to,
    wait_for_rows,
    wait_until,
)
from train.checkpoint.commits import newest_step
from train.process.starts import read_events

pytestmark = pytest.mark.battery

SHORT = ["checkpoint.interval=3"]
LONG = [
    "checkpoint.interval=40",
    "schedule.token_scale=3e-9",  # 398 steps: as long as SLURM may take to look at a time limit
    "schedule.phases=[{name: general, tokens: 0.1T}, {name: high_quality, tokens: 16.6T}, {name: stem, tokens: 0.3T}]",
]
AFTER_ROWS = 4
FIRST_OF_PHASE_2, LAST_OF_PHASE_2 = 4, 391
STALL_S, FOUND_S = 20, 30


class Job(NamedTuple):
    """What a case does something to."""

    cluster: Cluster
    number: str
    run_dir: Path


def ask_the_batch_shell(job: Job) -> None:
    job.cluster.run("scancel", "--batch", "--signal=USR1", job.number)


def ask_the_step(job: Job) -> None:
    job.cluster.run("scancel", "--signal=TERM", job.number)


def requeue(job: Job) -> None:
    job.cluster.run("scontrol", "requeue", job.number)


def kill_rank_0(job: Job) -> None:
    os.kill(json.loads((job.run_dir / "owner.json").read_text())["process"], signal.SIGKILL)


def stop_rank_2(job: Job) -> None:
    os.kill(rank_processes(job.number)[2], signal.SIGSTOP)


def restart_a_node_daemon(job: Job) -> None:
    job.cluster.end("slurmd-n2.pid", signal.SIGTERM)
    job.cluster.start_node("n2")


def cancel(job: Job) -> None:
    job.cluster.run("scancel", job.number)


def let_time_pass(job: Job) -> None:
    """Its limit strikes by itself."""


class Case(NamedTuple):
    strike: Callable[[Job], None]
    settings: Sequence[str] = SHORT
    extra: Sequence[str] = ()
    """Settings that change no loss."""
    saves: bool = False
    """Whether it leads to a checkpoint."""
    goes_on: str = "requeued"
    """By what: requeued by itself, submitted again by a person, or never stopped."""
    exit_codes: Sequence[int] | None = None
    """Of the starts, as far as one is sure."""
    check: Callable[[Path, float], str] = lambda run_dir, struck: ""
    """What else is true of the run directory at the end, and what is to be said of it; struck: seconds since 1970."""


def stopped_in_phase_2(run_dir: Path, struck: float) -> str:
    step = next(event["step"] for event in read_events(run_dir) if event.get("exit_code") == REQUEUE_EXIT)
    assert FIRST_OF_PHASE_2 <= step <= LAST_OF_PHASE_2
    return f"saved after step {step}"


def found_in_time(run_dir: Path, struck: float) -> str:
    (stall,) = [event for event in read_events(run_dir) if event["event"] == "stall"]
    assert stall["suspects"] == ["n2"]
    assert stall["reason"].startswith("rank 2 on n2 (process")
    assert len(list(run_dir.glob("stalls/*/rank-*.txt"))) == 4
    assert stall["time"] - struck <= FOUND_S
    return f"found after {stall['time'] - struck:.1f} s, with a limit of {STALL_S} s"


CASES = {
    "USR1 to the batch shell": Case(ask_the_batch_shell, saves=True, exit_codes=(10, 0)),
    "TERM to the step": Case(ask_the_step, saves=True, exit_codes=(10, 0)),
    "scontrol requeue": Case(requeue),
    "KILL to rank 0": Case(kill_rank_0),
    "STOP to a rank": Case(
        stop_rank_2, extra=[f"watchdog.stall_after_s={STALL_S}"], exit_codes=(12, 0), check=found_in_time
    ),
    "a slurmd stopped and started": Case(restart_a_node_daemon, goes_on="never stopped"),
    "scancel, submitted again": Case(cancel, goes_on="submitted again"),
    "the time limit, in phase 2": Case(
        let_time_pass,
        settings=LONG,
        extra=["cluster.time=0-0:01:00", "cluster.signal_before_s=10"],
        exit_codes=(10, 0),
        check=stopped_in_phase_2,
    ),
}


@pytest.fixture(scope="module")
def unbroken(running_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Losses]:
    """Of the run with these settings that nobody touches."""
    known: dict[str, Losses] = {}

    def train(settings: Sequence[str]) -> Losses:
        if (key := str(settings)) not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            (job,) = submitted_to(running_cluster, on_cluster(folder, *settings))
            assert running_cluster.wait(job, within_s=TRAIN_S).state == "COMPLETED"
            known[key] = losses(folder / "run")
        return known[key]

    return train


@pytest.fixture(scope="module")
def survived(tables: dict[str, list[str]]) -> Iterator[list[tuple[str, str]]]:
    """(case, what is to be said of it) of those that passed; printed after all tests."""
    found: list[tuple[str, str]] = []
    yield found
    lines = [f"{name:30s}  {said}".rstrip() for name, said in found]
    tables[f"runs on SLURM that survived: {len(found)} of {len(CASES)}"] = lines


@pytest.mark.parametrize("name", CASES)
def test_the_losses_are_those_of_an_unbroken_run(
    name: str,
    cluster: Cluster,
    unbroken: Callable[[Sequence[str]], Losses],
    survived: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    case, run_dir = CASES[name], tmp_path / "run"
    command = on_cluster(tmp_path, *case.settings, *case.extra)
    (number,) = submitted_to(cluster, command)
    wait_for_rows(run_dir, AFTER_ROWS)
    before, struck, said = newest_step(run_dir / "checkpoint"), time.time(), ""
    case.strike(Job(cluster, number, run_dir))
    if case.saves:
        wait_until(lambda: newest_step(run_dir / "checkpoint") != before, run_dir)
        said = f"{time.time() - struck:.1f} s from the signal to its checkpoint"
    if case.goes_on == "requeued":
        cluster.start_requeued(number)
    elif case.goes_on == "submitted again":
        cluster.wait(number, "CANCELLED", within_s=TRAIN_S)
        (number,) = submitted_to(cluster, command)
    ended = cluster.wait(number, "COMPLETED", "FAILED", within_s=TRAIN_S)
    assert (ended.state, ended.restarts) == ("COMPLETED", int(case.goes_on == "requeued")), job_log(run_dir)
    assert losses(run_dir) == unbroken(case.settings)
    codes = [event["exit_code"] for event in read_events(run_dir) if event["event"] == "decision"]
    assert case.exit_codes is None or codes == list(case.exit_codes)
    survived.append((name, said or case.check(run_dir, struck)))
