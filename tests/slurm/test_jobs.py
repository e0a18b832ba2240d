"""More than one job, or another node: chains, arrays, torchrun's agents, crash loops and nodes that are left out, on a
real SLURM to their end. A battery.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from socket import socket

import pytest

from launch import status
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import (
    TRAIN_S,
    Losses,
    job_log,
    losses,
    num_starts,
    on_cluster,
    rank_processes,
    submitted_to,
    wait_for_rows,
    wait_until,
)
from tests.train.small import mesh, small_settings
from train.metrics.jsonl import read_rows
from train.process.starts import read_events

pytestmark = pytest.mark.battery

TWO_RANKS = mesh(shards=2, expert_ranks=1)
ON_TWO_NODES = [*TWO_RANKS, "cluster.cpu_ranks_per_node=1"]
ON_ONE_NODE = [*TWO_RANKS, "cluster.nodes=1"]


@pytest.fixture(scope="module")
def expected(running_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Losses of two ranks that nobody touched, on one node."""
    folder = tmp_path_factory.mktemp("expected")
    (job,) = submitted_to(running_cluster, on_cluster(folder, *ON_ONE_NODE))
    assert running_cluster.wait(job, within_s=TRAIN_S).state == "COMPLETED", job_log(folder / "run")
    return losses(folder / "run")


def test_a_chain_goes_on_where_its_first_job_was_stopped(cluster: Cluster, tmp_path: Path, expected: Losses) -> None:
    first, second, third = submitted_to(cluster, [*on_cluster(tmp_path, *ON_TWO_NODES), "--chain", "3"])
    wait_for_rows(tmp_path / "run", 3)
    cluster.run("scancel", "--batch", "--signal=USR1", first)
    assert cluster.wait(first, within_s=TRAIN_S).state == "FAILED"  # which is what the second waits for
    assert cluster.wait(second, within_s=TRAIN_S).state == "COMPLETED", job_log(tmp_path / "run")
    assert cluster.wait(third, within_s=TRAIN_S).state == "CANCELLED"  # there is nothing left for it
    assert losses(tmp_path / "run") == expected


def test_each_task_of_an_array_is_a_run(cluster: Cluster, tmp_path: Path) -> None:
    command = [override for override in on_cluster(tmp_path, *ON_ONE_NODE) if not override.startswith("run.dir=")]
    environment = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": os.getcwd()}}
    words = [sys.executable, "-m", "launch.submit", "-m", *command, "run.name=sweep", "debug.seed=1,2"]
    subprocess.run(words, check=True, capture_output=True, **environment)
    runs = sorted((tmp_path / "runs").iterdir())
    assert [run.name for run in runs] == ["sweep-seed-1", "sweep-seed-2"]
    for run in runs:
        (job,) = next(event["jobs"] for event in read_events(run) if event["event"] == "submit")
        cluster.wait(job, within_s=TRAIN_S)
        assert [row["step"] for row in read_rows(run)][-1] == 13, job_log(run)
    assert losses(runs[0]) != losses(runs[1])


def test_torchruns_agents_pass_a_signal_on_and_the_job_is_requeued(
    cluster: Cluster, tmp_path: Path, expected: Losses
) -> None:
    (job,) = submitted_to(cluster, on_cluster(tmp_path, *ON_TWO_NODES, "cluster.launcher=torchrun"))
    wait_for_rows(tmp_path / "run", 3)
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.start_requeued(job)
    ended = cluster.wait(job, "COMPLETED", "FAILED", within_s=TRAIN_S)
    assert (ended.state, ended.restarts) == ("COMPLETED", 1), job_log(tmp_path / "run")
    assert losses(tmp_path / "run") == expected


def test_torchrun_by_hand_on_two_nodes(tmp_path: Path, expected: Losses) -> None:
    """Both are this machine."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        head = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["./launch/torchrun.sh", "--nodes", "2", "--head", head, *small_settings(tmp_path), *TWO_RANKS]
    nodes = [subprocess.Popen([*command, "--node-rank", str(node)], stderr=subprocess.PIPE) for node in (0, 1)]
    words = [node.communicate(timeout=TRAIN_S)[1].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], words
    assert losses(tmp_path / "run") == expected


def test_a_crash_loop_ends_after_three_starts_and_the_status_says_why(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    (job,) = submitted_to(cluster, on_cluster(tmp_path, *ON_TWO_NODES, "checkpoint.interval=1000"))
    for number in range(1, 4):
        wait_until(lambda number=number: num_starts(run_dir) == number, run_dir)
        wait_until(lambda: rank_processes(job), run_dir)
        os.kill(rank_processes(job)[0], signal.SIGKILL)
        if number < 3:
            cluster.start_requeued(job)
    ended = cluster.wait(job, within_s=TRAIN_S)
    assert (ended.state, ended.restarts) == ("FAILED", 2), job_log(run_dir)
    why = "no progress in 3 starts in a row, all ended at step 0; not started again"
    assert why in job_log(run_dir)
    assert status.main([str(run_dir), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["state"] == "stopped"
    assert why in shown["why"]


def test_a_node_that_stalled_is_left_out_by_the_next_start(cluster: Cluster, tmp_path: Path, expected: Losses) -> None:
    run_dir = tmp_path / "run"
    settings = ["watchdog.stall_after_s=3", "cluster.exclude_after_stalls=1", "cluster.exclude=[g001]"]
    (job,) = submitted_to(cluster, on_cluster(tmp_path, *ON_ONE_NODE, *settings))
    wait_for_rows(run_dir, 3)
    os.kill(rank_processes(job)[1], signal.SIGSTOP)
    cluster.start_requeued(job)
    ended = cluster.wait(job, "COMPLETED", "FAILED", within_s=TRAIN_S)
    assert (ended.state, ended.restarts) == ("COMPLETED", 1), job_log(run_dir)
    first, second = [event["nodes"] for event in read_events(run_dir) if event["event"] == "start"]
    assert {first, second} == {"n1", "n2"}
    assert f"leaves out {first},g001" in job_log(run_dir)
    assert losses(run_dir) == expected
