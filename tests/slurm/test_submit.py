"""launch.submit on a real SLURM: what is queued trains to its end, and what cannot is refused before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch import submit
from tests import golden
from tests.slurm.cluster import Cluster
from tests.train.small import small_settings
from train.metrics.jsonl import read_rows

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


def test_a_run_trains_on_two_nodes_to_its_end(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = submitted(on_cluster(tmp_path, "run.stop_after_step=6"), capsys)
    ended = cluster.wait(job, within_s=TRAIN_S)
    log = (tmp_path / f"run/slurm/{job}.log").read_text()
    assert (ended.state, ended.restarts) == ("COMPLETED", 0), log
    assert [row["step"] for row in read_rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert "n1 n2" in log


@pytest.mark.parametrize("name", golden.SCRIPTS)
def test_slurm_accepts_the_scripts_under_review(cluster: Cluster, name: str) -> None:
    """256 nodes of 8 GPUs are configured, and down: SLURM says when the job would run, or why it never could."""
    partition = "main" if name.startswith("smoke") else "hopper"
    script = golden.script_file(name)
    cluster.run("sbatch", "--test-only", f"--partition={partition}", str(script))
