"""A signal at any moment of a run on a real SLURM, thirty of them to one run: each start of it ends with a checkpoint
of its last step, or says that there is nothing to save; and the losses are those of a run that nobody touched.

A battery: thirty-one starts of two ranks.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import (
    TRAIN_S,
    job_log,
    losses,
    num_rows,
    num_starts,
    on_cluster,
    rank_processes,
    submitted_to,
    wait_until,
)
from tests.train.small import mesh
from train.checkpoint.commits import committed_steps, newest_step
from train.process.starts import read_events

pytestmark = pytest.mark.battery

SAVES_EVERY = 5
SETTINGS = [
    *mesh(shards=2, expert_ranks=1),
    "cluster.cpu_ranks_per_node=1",
    "cluster.max_starts_without_progress=30",  # this test is crueller than a cluster
    f"checkpoint.interval={SAVES_EVERY}",
    "validation.windows=8",
    "schedule.token_scale=4.5e-9",  # 598 steps
]
STARTING_S, STEPPING_S = 6.0, 0.5
"""About as long as a start takes, and some steps with their validations and checkpoints."""


def while_it_starts(run_dir: Path, dice: random.Random) -> None:
    time.sleep(dice.uniform(0, STARTING_S))


def in_its_first_step(run_dir: Path, dice: random.Random) -> None:
    """Or in what comes right before: from the record of the start to a row it takes some seconds."""
    before, starts = num_rows(run_dir), num_starts(run_dir)
    wait_until(lambda: num_starts(run_dir) > starts or num_rows(run_dir) > before, run_dir)
    time.sleep(dice.uniform(1, STARTING_S / 2))


def while_it_validates(run_dir: Path, dice: random.Random) -> None:
    """After the row before the one that is validated."""
    wait_for_a_row(run_dir)
    wait_until(lambda: num_rows(run_dir) % SAVES_EVERY == SAVES_EVERY - 1, run_dir)
    time.sleep(dice.uniform(0, 0.3))


def while_it_saves(run_dir: Path, dice: random.Random) -> None:
    wait_for_a_row(run_dir)
    wait_until(lambda: is_saving(run_dir), run_dir)


def at_any_step(run_dir: Path, dice: random.Random) -> None:
    wait_for_a_row(run_dir)
    time.sleep(dice.uniform(0, STEPPING_S))


MOMENTS: dict[Callable[[Path, random.Random], None], int] = {
    while_it_starts: 8,
    in_its_first_step: 4,
    while_it_validates: 6,
    while_it_saves: 6,
    at_any_step: 6,
}


def wait_for_a_row(run_dir: Path) -> None:
    """Of this start."""
    before = num_rows(run_dir)
    wait_until(lambda: num_rows(run_dir) > before, run_dir)


def is_saving(run_dir: Path) -> bool:
    folder = run_dir / "checkpoint"
    folders = {path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()}
    return bool(folders - {f"step-{step}" for step in committed_steps(folder)})


def ask(cluster: Cluster, number: str, dice: random.Random) -> str:
    """The batch shell, all ranks, or one of them. Returns whom."""
    whom = dice.choice(["the batch shell", "all ranks", "one rank"])
    ranks = rank_processes(number)
    if whom == "one rank" and ranks:
        os.kill(ranks[dice.choice(list(ranks))], dice.choice([signal.SIGUSR1, signal.SIGTERM]))
    elif whom == "all ranks" and ranks:
        cluster.run("scancel", "--signal=TERM", number)
    else:
        whom = "the batch shell"
        cluster.run("scancel", "--batch", "--signal=USR1", number)
    return whom


@pytest.fixture(scope="module")
def unbroken(running_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody touches."""
    folder = tmp_path_factory.mktemp("unbroken")
    (job,) = submitted_to(running_cluster, on_cluster(folder, *SETTINGS))
    assert running_cluster.wait(job, within_s=TRAIN_S).state == "COMPLETED", job_log(folder / "run")
    return folder / "run"


def test_thirty_signals_at_thirty_moments(
    cluster: Cluster, unbroken: Path, tmp_path: Path, tables: dict[str, list[str]]
) -> None:
    dice, run_dir = random.Random(0), tmp_path / "run"
    moments = dice.sample(list(MOMENTS), sum(MOMENTS.values()), counts=MOMENTS.values())
    (number,) = submitted_to(cluster, on_cluster(tmp_path, *SETTINGS))
    lines: list[str] = []
    waits: list[float] = []
    for moment in moments:
        cluster.wait(number, "RUNNING", within_s=TRAIN_S)
        rows, saved = num_rows(run_dir), newest_step(run_dir / "checkpoint")
        moment(run_dir, dice)
        struck = time.time()
        whom = ask(cluster, number, dice)
        cluster.wait(number, "PENDING", within_s=TRAIN_S)
        now = newest_step(run_dir / "checkpoint")
        if num_rows(run_dir) > rows:
            assert now == num_rows(run_dir), job_log(run_dir)
            waits.append((run_dir / f"checkpoint/step-{now}/.metadata").stat().st_mtime - struck)
            lines.append(f"{moment.__name__:20s} {whom:16s} step {now}, {waits[-1]:.1f} s after the signal")
        else:
            assert now == saved
            lines.append(f"{moment.__name__:20s} {whom:16s} nothing to save yet")
        cluster.start_requeued(number)
    assert cluster.wait(number, "COMPLETED", "FAILED", within_s=TRAIN_S).state == "COMPLETED", job_log(run_dir)
    assert losses(run_dir) == losses(unbroken)
    codes = [event["exit_code"] for event in read_events(run_dir) if event["event"] == "decision"]
    assert codes == [10] * len(moments) + [0]
    lines.append(f"from a signal to its checkpoint: median {median(waits):.1f} s, worst {max(waits):.1f} s")
    tables[f"signals to a run on SLURM that were survived: {len(moments)} of {len(moments)}"] = lines


def test_an_export_that_is_stopped_leaves_nothing_or_all(unbroken: Path, tmp_path: Path) -> None:
    dice, command = random.Random(0), [sys.executable, "-m", "train.export", str(unbroken)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for number in range(4):
        out = tmp_path / f"out-{number}"
        with subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True) as export:
            assert export.stderr is not None
            while "export:" not in export.stderr.readline():  # its bar: it is at work
                assert export.poll() is None
            time.sleep(dice.uniform(0, 0.05))
            export.send_signal(signal.SIGTERM)
            export.stderr.read()
        whole = sorted(path.name for path in (tmp_path / "whole").iterdir())
        left = sorted(path.name for path in out.iterdir()) if out.exists() else None
        assert (export.returncode, left) in ((128 + signal.SIGTERM, None), (0, whole))
    assert {path.name for path in tmp_path.iterdir()} <= {"whole", *(f"out-{number}" for number in range(4))}
