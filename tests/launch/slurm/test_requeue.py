"""launch/slurm/requeue.py: a job goes on while the run does, and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import requeue
from launch.slurm.requeue import Decision, decide, progress, stalled_nodes, successors
from train.process.starts import append_event, read_events


def start(step: int, job: str = "7") -> dict[str, Any]:
    return {"event": "start", "job": job, "step": step}


def end(step: int, exit_code: int) -> dict[str, Any]:
    return {"event": "end", "step": step, "exit_code": exit_code}


def decision(step: int, job: str = "7") -> dict[str, Any]:
    return {"event": "decision", "job": job, "step": step}


def submit(*jobs: str) -> dict[str, Any]:
    return {"event": "submit", "jobs": list(jobs)}


def decided(events: list[dict[str, Any]], *, exit_code: int, step: int, job: str = "7") -> Decision:
    return decide(events, job=job, exit_code=exit_code, step=step, max_starts=3)


@pytest.mark.parametrize("exit_code", [0, 2, 3])
def test_what_would_end_in_the_same_way_is_not_started_again(exit_code: int) -> None:
    assert not decided([submit("7"), start(0)], exit_code=exit_code, step=40).goes_on


@pytest.mark.parametrize("exit_code", [1, 10, 12, 137, 138, 139, 143])
def test_a_crash_a_stall_and_a_signal_are(exit_code: int) -> None:
    assert decided([submit("7"), start(0)], exit_code=exit_code, step=0).goes_on


def test_three_starts_without_a_new_checkpoint_are_the_last() -> None:
    events = [submit("7"), start(0), decision(40), start(40), decision(40), start(40), decision(40)]
    assert decided([*events[:5], start(40)], exit_code=1, step=40).goes_on  # the second of them
    third = decided([*events, start(40)], exit_code=1, step=40)
    assert not third.goes_on
    assert third.reason == "exit code 1: no progress in 3 starts in a row, all ended at step 40; not started again"
    assert decided([*events, start(40)], exit_code=1, step=41).goes_on


def test_starts_that_were_over_before_the_program_ran_count() -> None:
    events = [submit("7"), decision(0), decision(0)]
    assert not decided(events, exit_code=127, step=0).goes_on
    assert decided(events[:2], exit_code=127, step=0).goes_on


def test_starts_that_were_killed_as_a_whole_count() -> None:
    assert progress([start(0), start(40), start(40), start(40)], 40) == [True, False, False, False]


def test_a_new_submission_counts_from_the_beginning() -> None:
    before = [submit("6"), start(40, "6"), decision(40, "6"), start(40, "6"), decision(40, "6")]
    assert decided([*before, submit("7"), start(40)], exit_code=1, step=40).goes_on
    assert not decided([*before, start(40, "6")], exit_code=1, step=40, job="6").goes_on


def test_the_jobs_of_a_chain_count_together() -> None:
    events = [submit("7", "8", "9"), start(40), decision(40), start(40, "8"), decision(40, "8"), start(40, "9")]
    assert not decided(events, exit_code=1, step=40, job="9").goes_on
    assert successors(events, "8") == ["9"]
    assert successors(events, "5") == []


def test_rank_0_knows_better_than_srun_how_a_run_ended() -> None:
    stopped = decided([submit("7"), start(0), end(3, 10)], exit_code=143, step=3)
    assert stopped == Decision(True, "stopped by a signal: goes on from step 3", 10)
    assert not decided([submit("7"), start(0), end(3, 0)], exit_code=139, step=3).goes_on
    assert decided([submit("7"), start(0), end(3, 1)], exit_code=137, step=3).reason.startswith("exit code 137")


def test_the_end_of_another_start_says_nothing_of_this_job() -> None:
    assert decided([start(0, job="6"), end(5, 0)], exit_code=1, step=5).goes_on


def test_a_node_that_stalled_twice_is_left_out() -> None:
    events = [{"event": "decision", "suspects": ["n2", "n1"]}, {"event": "decision", "suspects": ["n2"]}]
    assert stalled_nodes(events, at_least=2) == ["n2"]


# The command


def decide_by_command(run_dir: Path, *arguments: str, job: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.delenv("RANK", raising=False)
    limits = ["--checkpoints", str(run_dir / "checkpoint"), "--max-starts", "1", "--exclude-after", "2"]
    return requeue.main([str(run_dir), *limits, *arguments])


def test_the_reason_is_in_the_log_and_in_the_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "logs/job-7.0/rank-3.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: disk full\n")
    append_event(tmp_path, "submit", jobs=["7", "8"])
    assert decide_by_command(tmp_path, "--exit-code", "1", "--chained", job="7", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr()
    assert said.out == "cancel 8 -\n"
    assert "job 7: exit code 1: no progress in 1 starts in a row" in said.err
    assert "the end of rank-3.log:\n  | error: disk full" in said.err
    decided = read_events(tmp_path)[-1]
    assert (decided["event"], decided["requeue"], decided["step"]) == ("decision", False, 0)


@pytest.mark.parametrize(
    ("chained", "said"), [([], "requeue 8 n2\n"), (["--chained"], "end 8 n2\n")], ids=["alone", "in a chain"]
)
def test_a_node_that_stalled_twice_is_left_out_by_the_start_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, chained: list[str], said: str
) -> None:
    append_event(tmp_path, "submit", jobs=["7", "8"])
    append_event(tmp_path, "start", job="7", step=0)
    for suspects in (["n2"], ["n1", "n2"]):
        append_event(tmp_path, "stall", step=3, suspects=suspects, reason="")
    (tmp_path / "checkpoint/step-1").mkdir(parents=True)
    assert decide_by_command(tmp_path, "--exit-code", "12", *chained, job="7", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == said


def test_the_command_takes_no_torch(tmp_path: Path) -> None:
    """A batch script waits for it while its nodes are idle."""
    command = [sys.executable, "-X", "importtime", "-m", "launch.requeue", str(tmp_path)]
    options = ["--checkpoints", str(tmp_path), "--exit-code", "0", "--max-starts", "3", "--exclude-after", "2"]
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "end - -\n"
    assert " torch" not in done.stderr
