"""launch.submit on a real SLURM: what is queued trains to its end, and what cannot is refused before."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from launch import submit
from tests import golden
from tests.slurm.cluster import Cluster
from tests.train.small import small_settings
from train.config.rundir import open_run_dir
from train.config.start import checked_run
from train.metrics.jsonl import read_rows
from train.process.starts import read_events

TRAIN_S = 240.0


def on_cluster(folder: Path, *overrides: str) -> list[str]:
    """A run of the smallest model on two nodes of two ranks each."""
    return [*small_settings(folder), "cluster=cpu_2nodes", f"run.dir={folder / 'run'}", *overrides]


def submitted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Numbers of the jobs."""
    assert submit.main(arguments) == 0
    out = capsys.readouterr().out
    found = re.search(r"scancel ([\d ]+)$", out, re.MULTILINE)
    assert found, out
    return found[1].split()


def wait_for_rows(run_dir: Path, number: int) -> None:
    deadline = time.monotonic() + TRAIN_S
    while not (run_dir / "metrics.jsonl").is_file() or len(read_rows(run_dir)) < number:
        assert time.monotonic() < deadline, [log.read_text() for log in run_dir.glob("slurm/*.log")]
        time.sleep(0.1)


def test_a_run_trains_on_two_nodes_to_its_end(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = submitted(on_cluster(tmp_path, "run.stop_after_step=6"), capsys)
    ended = cluster.wait(job, within_s=TRAIN_S)
    log = (tmp_path / f"run/slurm/{job}.log").read_text()
    assert (ended.state, ended.restarts) == ("COMPLETED", 0), log
    assert [row["step"] for row in read_rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert "n1 n2" in log


def test_a_run_that_is_signalled_saves_and_is_requeued_and_goes_on(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    (job,) = submitted(on_cluster(tmp_path, "run.stop_after_step=12"), capsys)
    wait_for_rows(run_dir, 2)
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.start_requeued(job)
    ended = cluster.wait(job, "COMPLETED", "FAILED", within_s=TRAIN_S)
    log = (run_dir / f"slurm/{job}.log").read_text()
    assert (ended.state, ended.restarts) == ("COMPLETED", 1), log
    assert [row["step"] for row in read_rows(run_dir)] == list(range(1, 13))
    events = read_events(run_dir)
    assert [event["event"] for event in events] == ["submit", *["start", "end", "decision"] * 2]
    assert [event["exit_code"] for event in events if event["event"] == "decision"] == [10, 0]


# What is refused


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert submit.main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cluster=cpu_2node"], "Could not find 'cluster/cpu_2node'"),
        (["cluster=none"], "cluster=none: submit needs a cluster"),
        (["cluster.partition=small"], "the mesh fills 2 nodes, but partition small has 1; choose another"),
        (["cluster.partition=gpu"], "cluster.partition=gpu: the cluster has no such; there are: .*main"),
        (["cluster.time=9-0"], "cluster.time=9-0: partition main allows 1-00:00:00; ask for less: the job is requeued"),
        (["cluster.sbatch={nodelist: n77}"], "SLURM refuses: .*node"),
        (["run.dir=/proc/run"], "run.dir=/proc/run: cannot be written .*; choose another folder"),
        (["optimizer.muon.lr=-1", "balance.sped=2"], "muon.lr: .*\n.*balance.sped: unknown key"),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_is_left_behind(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    before = cluster.run("squeue", "-h", "-o", "%i")
    err = refusal(on_cluster(tmp_path, *overrides), capsys)
    assert re.search(said, err), err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    assert cluster.run("squeue", "-h", "-o", "%i") == before


def test_the_words_of_sbatch_are_passed_on_and_a_run_is_left_as_it_was(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster without accounts refuses none: the answer is what one with accounts gives."""
    words = "Batch job submission failed: Invalid account or account/partition combination specified"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {words}' >&2\nexit 1\n")
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    open_run_dir(checked_run([*on_cluster(tmp_path), "balance.speed=0.5"]))  # an earlier start, without a step
    before = (tmp_path / "run/config.yaml").read_text()
    assert f"error: SLURM refuses: sbatch: error: {words}" in refusal(on_cluster(tmp_path), capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert (tmp_path / "run/config.yaml").read_text() == before


def test_a_second_job_of_a_run_directory_is_refused_while_the_first_waits(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = submitted(on_cluster(tmp_path, "cluster.sbatch={begin: now+3600}"), capsys)
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    said = refusal(on_cluster(tmp_path), capsys)
    assert f"job {job} (PENDING) of this run is in the queue already; wait, stop it (scancel {job})" in said
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == kept
    cluster.run("scancel", job)


def test_a_chain_waits_one_for_the_other(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = submitted([*on_cluster(tmp_path, "cluster.sbatch={begin: now+3600}"), "--chain", "3"], capsys)
    assert [cluster.job(job).reason for job in jobs] == ["BeginTime", "Dependency", "Dependency"]
    cluster.run("scancel", *jobs)


def test_without_slurm_a_script_can_be_printed_but_not_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch, squeue, sinfo, scontrol: not on PATH" in refusal(on_cluster(tmp_path), capsys)
    assert submit.main([*on_cluster(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n# smoke on 2 nodes")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", golden.SCRIPTS)
def test_slurm_accepts_the_scripts_under_review(cluster: Cluster, name: str) -> None:
    """256 nodes of 8 GPUs are configured, and down: SLURM says when the job would run, or why it never could."""
    partition = "main" if name.startswith("smoke") else "hopper"
    script = golden.script_file(name)
    cluster.run("sbatch", "--test-only", f"--partition={partition}", str(script))
