"""Runs of the smallest model as jobs: their settings, their submission, and what a test waits for."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.train.small import small_settings
from train.metrics.jsonl import read_rows
from train.process.starts import read_events

TRAIN_S = 240.0
Losses = list[tuple[int, float, float, str]]
"""(step, loss, gradient norm, digest of the batch) of each row: what must be the same bits, whatever happened."""


def on_cluster(folder: Path, *overrides: str) -> list[str]:
    """A run of the smallest model on two nodes of two ranks each."""
    return [*small_settings(folder), "cluster=cpu_2nodes", *overrides]


def submitted_to(cluster: Cluster, arguments: list[str]) -> list[str]:
    """Numbers of the jobs that `launch.submit` prints."""
    out = cluster.run(sys.executable, "-m", "launch.submit", *arguments)
    found = re.search(r"scancel ([\d ]+)$", out, re.MULTILINE)
    assert found, out
    return found[1].split()


def wait_until(condition: Callable[[], object], run_dir: Path) -> None:
    """Raises AssertionError with the log of the job."""
    deadline = time.monotonic() + TRAIN_S
    while not condition():
        assert time.monotonic() < deadline, job_log(run_dir)
        time.sleep(0.005)


def wait_for_rows(run_dir: Path, number: int) -> None:
    wait_until(lambda: num_rows(run_dir) >= number, run_dir)


def num_rows(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def num_starts(run_dir: Path) -> int:
    return sum(event["event"] == "start" for event in read_events(run_dir))


def job_log(run_dir: Path) -> str:
    return "".join(file.read_text() for file in sorted(run_dir.glob("slurm/*.log")))


def losses(run_dir: Path) -> Losses:
    return [(row["step"], row["loss"], row["grad_norm"], row["batch_digest"]) for row in read_rows(run_dir)]


def rank_processes(number: str) -> dict[int, int]:
    """Rank -> its process, of a job whose ranks srun started on this machine."""
    found: dict[int, int] = {}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended, or is another user's
            continue
        environment = dict(word.split("=", 1) for word in words if "=" in word)
        if environment.get("SLURM_JOB_ID") == number and "\0-m\0launch.rank\0" in command and "srun" not in command:
            found.setdefault(int(environment["SLURM_PROCID"]), int(folder.name))
    return found
