"""launch.submit without a SLURM: what --dry-run prints (with one: tests/slurm)."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import submit
from launch.slurm.snapshot import contents
from train.process.starts import append_event

SMOKE = ["experiment=smoke", "cluster=cpu_2nodes", "--dry-run"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert submit.main([*SMOKE, *arguments]) == 0
    return capsys.readouterr().out


def test_options_of_a_persons_own_are_read_from_the_snapshot(
    capsys: pytest.CaptureFixture[str], own_experiment: Path, tmp_path: Path
) -> None:
    script = printed(capsys, "--config-dir", str(own_experiment), "experiment=mine", f"run.dir={tmp_path / 'run'}")
    assert "own/experiment/mine.yaml" in contents(own_experiment)
    (line,) = [line for line in script.splitlines() if line.startswith("    'hydra.searchpath=")]
    assert f"file://{tmp_path / 'run/code'}/" in line
    assert line.endswith("/own\"]' \\")


def test_a_job_of_a_chain_is_not_requeued(capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, "--chain", "3")
    assert "#SBATCH --no-requeue\n" in script
    assert "#SBATCH --requeue\n" not in script
    assert "\nCHAINED=yes" in script


def test_a_sweep_is_an_array_of_runs_with_a_script_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = printed(capsys, "-m", "optimizer.muon.lr=1e-2,2e-2", f"run.dir={tmp_path}/${{run.name}}")
    array, first, second = out.split("#!/bin/bash\n")[1:]
    assert "#SBATCH --array=0-1\n" in array
    assert f"folders=(\n    {tmp_path}/smoke-lr-0.01/slurm\n    {tmp_path}/smoke-lr-0.02/slurm\n)" in array
    assert "    optimizer.muon.lr=0.01 \\\n" in first
    assert f"RUN_DIR={tmp_path}/smoke-lr-0.02\n" in second


def test_a_sweep_over_what_jobs_ask_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main([*SMOKE, "-m", "cluster.time=0-1,0-2"]) == 2
    assert "--multirun: the jobs of an array ask for the same, but time differs" in capsys.readouterr().err


def test_nodes_that_stalled_are_left_out_of_the_next_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for _ in range(2):
        append_event(tmp_path, "decision", job="1", step=0, suspects=["n7"])
    assert "#SBATCH --exclude=n3,n7\n" in printed(capsys, f"run.dir={tmp_path}", "cluster.exclude=[n3]")


def test_a_run_whose_folder_no_script_can_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main([*SMOKE, 'run.dir="a\nb"']) == 2
    assert "a batch script cannot hold it" in capsys.readouterr().err


def test_a_run_that_is_complete_is_not_queued_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    step = tmp_path / "checkpoint/step-4"
    step.mkdir(parents=True)
    (step / ".metadata").touch()
    command = [word for word in SMOKE if word != "--dry-run"]
    assert submit.main([*command, f"run.dir={tmp_path}", "run.stop_after_step=4", "--anyway"]) == 2
    assert "nothing to train: step 4 is done, and the run ends there; export it" in capsys.readouterr().err
