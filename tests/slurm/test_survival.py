"""What a cluster does to a run, on a real SLURM: whatever it is, the losses are those of the run that nobody touched.

Prints the seconds from each signal to the checkpoint that it led to. A battery: seven runs of four ranks, most of them
started twice.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.test_submit import TRAIN_S, on_cluster, submitted_to, wait_for_rows
from train.checkpoint.commits import newest_step
from train.metrics.jsonl import read_rows

pytestmark = pytest.mark.battery

SETTINGS = ["checkpoint.interval=3"]
AFTER_ROWS = 4


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


def restart_a_node_daemon(job: Job) -> None:
    job.cluster.end("slurmd-n2.pid", signal.SIGTERM)
    job.cluster.start_node("n2")


def cancel(job: Job) -> None:
    job.cluster.run("scancel", job.number)


class Case(NamedTuple):
    strike: Callable[[Job], None]
    saves: bool = False
    """Whether it leads to a checkpoint."""
    goes_on: str = "requeued"
    """By what: requeued by itself, submitted again by a person, or never stopped."""


CASES = {
    "USR1 to the batch shell": Case(ask_the_batch_shell, saves=True),
    "TERM to the step": Case(ask_the_step, saves=True),
    "scontrol requeue": Case(requeue),
    "KILL to rank 0": Case(kill_rank_0),
    "a slurmd stopped and started": Case(restart_a_node_daemon, goes_on="never stopped"),
    "scancel, submitted again": Case(cancel, goes_on="submitted again"),
}


def losses(run_dir: Path) -> list[tuple[int, float, float, str]]:
    return [(row["step"], row["loss"], row["grad_norm"], row["batch_digest"]) for row in read_rows(run_dir)]


@pytest.fixture(scope="module")
def unbroken(running_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float, float, str]]:
    folder = tmp_path_factory.mktemp("unbroken")
    (job,) = submitted_to(running_cluster, on_cluster(folder, *SETTINGS))
    assert running_cluster.wait(job, within_s=TRAIN_S).state == "COMPLETED"
    return losses(folder / "run")


@pytest.mark.parametrize("name", CASES)
def test_the_losses_are_those_of_an_unbroken_run(
    name: str, cluster: Cluster, unbroken: list[tuple[int, float, float, str]], tmp_path: Path
) -> None:
    case, run_dir, command = CASES[name], tmp_path / "run", on_cluster(tmp_path, *SETTINGS)
    (number,) = submitted_to(cluster, command)
    wait_for_rows(run_dir, AFTER_ROWS)
    before, struck = newest_step(run_dir / "checkpoint"), time.monotonic()
    case.strike(Job(cluster, number, run_dir))
    if case.saves:
        while newest_step(run_dir / "checkpoint") == before:
            assert time.monotonic() < struck + TRAIN_S
            time.sleep(0.05)
        print(f"{name}: {time.monotonic() - struck:.1f} s to a checkpoint")
    if case.goes_on == "requeued":
        cluster.start_requeued(number)
    elif case.goes_on == "submitted again":
        cluster.wait(number, "CANCELLED", within_s=TRAIN_S)
        (number,) = submitted_to(cluster, command)
    ended = cluster.wait(number, "COMPLETED", "FAILED", within_s=TRAIN_S)
    log = "".join(file.read_text() for file in sorted(run_dir.glob("slurm/*.log")))
    assert (ended.state, ended.restarts) == ("COMPLETED", int(case.goes_on == "requeued")), log
    assert losses(run_dir) == unbroken
