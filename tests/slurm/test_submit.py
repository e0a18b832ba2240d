"""launch.submit on a real SLURM: what is queued trains to its end, and what cannot is refused before."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from launch import submit
from tests import golden
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import TRAIN_S, job_log, on_cluster, submitted_to
from train.metrics.jsonl import read_rows


def test_a_run_trains_on_two_nodes_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    (job,) = submitted_to(cluster, on_cluster(tmp_path, "run.stop_after_step=6"))
    ended = cluster.wait(job, within_s=TRAIN_S)
    log = job_log(tmp_path / "run")
    assert (ended.state, ended.restarts) == ("COMPLETED", 0), log
    assert [row["step"] for row in read_rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert "n1 n2" in log


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
        (["cluster.sbatch={nodelist: n77}"], "SLURM refuses the job: Invalid node name"),
        (["run.dir=/proc/run"], "run.dir: nothing can be saved in /proc/run .*; choose another run.dir"),
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
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("of a user\n")
    assert f"error: SLURM refuses: sbatch: error: {words}" in refusal([*on_cluster(tmp_path), "--anyway"], capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert (tmp_path / "run/notes.txt").read_text() == "of a user\n"


def test_a_second_job_of_a_run_directory_is_refused_while_the_first_waits(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = submitted_to(cluster, on_cluster(tmp_path, "cluster.sbatch={begin: now+3600}"))
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    said = refusal(on_cluster(tmp_path), capsys)
    assert f"job {job} (PENDING) of this run is in the queue already; wait, stop it (scancel {job})" in said
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == kept
    cluster.run("scancel", job)


def test_a_chain_waits_one_for_the_other(cluster: Cluster, tmp_path: Path) -> None:
    jobs = submitted_to(cluster, [*on_cluster(tmp_path, "cluster.sbatch={begin: now+3600}"), "--chain", "3"])
    assert [cluster.reason(job) for job in jobs] == ["BeginTime", "Dependency", "Dependency"]
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
