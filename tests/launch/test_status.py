"""launch/status.py and launch/board/: what is said of runs in every state, also where their files are not whole."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import status
from launch.board import facts as facts_module
from launch.board.facts import last_rows, read_facts, step_seconds
from launch.board.slurm import Job, jobs_of, look_up
from launch.board.state import Status, status_of
from launch.board.table import duration, table

NOW = 1_000_000.0
PHASES = [{"name": "general", "tokens": 400}, {"name": "stem", "tokens": 400}]
SETTINGS = {
    "run": {"name": "mine"},
    "schedule": {"phases": PHASES, "batch": [{"from_tokens": 0, "sequences": 2}]},
    "training": {"seq_len": 10},
    "checkpoint": {"folder": "checkpoint"},
}
"""40 steps of 20 tokens: 20 in each phase."""


def row(step: int, **more: Any) -> dict[str, Any]:
    seconds = {"data": 0.0, "total": 2.0, "checkpoint": 0.5}
    phase = "general" if step <= 20 else "stem"
    figures = {"step": step, "tokens": 20 * step, "phase": phase, "loss": 4.0, "mfu": None, "seconds": seconds}
    return {**figures, "tokens_per_second": 10.0, **more}


def make_run(
    path: Path, steps: int = 0, *, events: Sequence[dict[str, Any]] = (), checkpoint: int = 0, age_s: float = 1.0
) -> Path:
    """A run directory whose last row is `age_s` old at NOW."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    if steps:
        (path / "metrics.jsonl").write_text("".join(json.dumps(row(step)) + "\n" for step in range(1, steps + 1)))
        os.utime(path / "metrics.jsonl", (NOW - age_s, NOW - age_s))
    if events:
        (path / "starts.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if checkpoint:
        (path / f"checkpoint/step-{checkpoint}").mkdir(parents=True)
        os.utime(path / f"checkpoint/step-{checkpoint}", (NOW - 90, NOW - 90))
    return path


def start(time: float = NOW - 100, **more: Any) -> dict[str, Any]:
    return {"event": "start", "time": time, "host": "n1", "job": None, "step": 0, **more}


def end(exit_code: int, reason: str) -> dict[str, Any]:
    return {"event": "end", "time": NOW - 1, "exit_code": exit_code, "step": 10, "reason": reason}


def status_at_now(path: Path, **jobs: Job) -> Status:
    return status_of(read_facts(path), {name.removeprefix("job"): job for name, job in jobs.items()}, now=NOW)


def own(path: Path, host: str) -> None:
    (path / "owner.json").write_text(json.dumps({"host": host, "process": 1, "since": NOW - 100}))


def test_a_run_of_another_machine_is_running_as_long_as_it_moves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 10, events=[start()], checkpoint=8)
    own(run, "elsewhere")
    found = status_at_now(run)
    assert (found.state, found.why) == ("running", "on elsewhere")
    assert (found.step, found.num_steps, found.phase, found.tokens) == (10, 40, "general", 200)
    assert (found.checkpoint_step, found.checkpoint_age_s) == (8, 90)
    assert found.tokens_per_second == 10
    assert (found.eta_phase_s, found.eta_s) == (20, 60)  # 200 and 600 tokens at 10 a second
    (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS | {"run": {"stop_after_step": 25}}))
    assert (status_at_now(run).eta_phase_s, status_at_now(run).eta_s) == (20, 30)
    assert found.goodput == pytest.approx(10 * 1.5 / 100)  # ten steps of 2 s, less 0.5 s of saving, in 100 s
    assert found.restarts == 0
    os.utime(run / "metrics.jsonl", (NOW - 400, NOW - 400))
    (run / "starts.jsonl").write_text(json.dumps(start(NOW - 500)) + "\n")
    assert status_at_now(run).state == "stalled"
    assert "no sign of life for 400 s" in status_at_now(run).why
    os.utime(run / "metrics.jsonl", (NOW - 1e5, NOW - 1e5))
    (run / "starts.jsonl").write_text(json.dumps(start(NOW - 2e5)) + "\n")
    assert status_at_now(run).state == "stopped"


def test_a_run_of_this_machine_is_running_while_its_lock_is_held(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 10, events=[start()])
    own(run, socket.gethostname())
    assert status_at_now(run).state == "stopped"
    assert status_at_now(run).why == "killed: its last start has no end"
    with (run / "owner.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert status_at_now(run).state == "running"


def test_a_start_may_take_long_until_its_first_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 10, events=[start(NOW - 9000), start(NOW - 600)], age_s=8000)
    own(run, "elsewhere")
    assert status_at_now(run).state == "running"
    assert status_at_now(run).restarts == 1


def test_saving_may_take_longer_than_a_step_and_a_watchdog_has_its_own_limits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 10, events=[start(NOW - 900)], age_s=600)
    own(run, "elsewhere")
    assert status_at_now(run).state == "stalled"
    (run / "checkpoint/step-10.tmp").mkdir(parents=True)
    assert status_at_now(run).state == "running"
    (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS | {"watchdog": {"enable": True, "save_after_s": 300.0}}))
    assert status_at_now(run).state == "stalled"


def test_a_finished_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 40, events=[start(), end(0, "reached its last step")], checkpoint=40)
    found = status_at_now(run)
    assert (found.state, found.step, found.eta_s) == ("finished", 40, None)
    assert found.goodput == pytest.approx(40 * 1.5 / 99)  # its time ends with its last row


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([start(), end(3, "RunError: loss is nan")], "RunError: loss is nan (exit code 3)"),
        ([start(), end(0, "reached its last step")], "run.stop_after_step"),
        (
            [
                start(),
                {"event": "decision", "time": NOW, "step": 0, "exit_code": 137, "requeue": False}
                | {"reason": "no progress in 3"},
            ],
            "no progress in 3 (exit code 137)",
        ),
        ([start()], "killed"),
        ([start(), {"event": "stall", "time": NOW, "reason": "rank 3 does not answer"}], "rank 3 does not answer"),
    ],
)
def test_a_stopped_run_says_why(tmp_path: Path, events: list[dict[str, Any]], why: str) -> None:
    found = status_at_now(make_run(tmp_path / "a", 10, events=events))
    assert found.state == "stopped"
    assert why in found.why


def test_slurm_knows_better_than_files(tmp_path: Path) -> None:
    submitted = {"event": "submit", "time": NOW - 200, "jobs": ["7", "8"]}
    run = make_run(tmp_path / "a", 10, events=[submitted, start(job="7"), end(10, "asked to stop by SIGUSR1")])
    queued = status_at_now(run, job8=Job("PENDING", "Dependency"), job7=Job("COMPLETED"))
    assert (queued.state, queued.why, queued.job) == ("queued", "Dependency", "8")
    assert status_at_now(run, job7=Job("RUNNING")).state == "running"
    new = make_run(tmp_path / "b", events=[submitted])
    assert status_at_now(new, job7=Job("PENDING", "Priority")).state == "queued"
    assert status_at_now(new).state == "new"


def test_jobs_are_those_of_the_last_submission_and_of_the_last_start() -> None:
    events = [{"event": "submit", "jobs": ["1"]}, start(job="1"), {"event": "submit", "jobs": ["2", "3"]}]
    assert jobs_of(events) == ["2", "3"]
    assert jobs_of([*events, start(job="2")]) == ["3", "2"]
    assert jobs_of([start()]) == []


def test_without_slurm_no_job_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert look_up(["7"]) == {}


def test_what_squeue_has_forgotten_is_asked_of_sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, line in {"squeue": "7|PENDING|Priority", "sacct": "8|CANCELLED by 0|0:0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{line}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert look_up(["8", "7"]) == {"7": Job("PENDING", "Priority"), "8": Job("CANCELLED", "exit code 0:0")}


@pytest.mark.parametrize("config", [None, "", "{", "a: [1", "[1]", "schedule: {}\ntraining: {}\n", "\0\xff"])
def test_damaged_files_are_said_and_break_nothing(tmp_path: Path, config: str | None) -> None:
    run = make_run(tmp_path / "a", 10)
    (run / "config.yaml").unlink()
    if config is not None:
        (run / "config.yaml").write_bytes(config.encode("latin-1"))
    (run / "owner.json").write_text("{")
    (run / "starts.jsonl").write_text('{"event": "sta')
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\0\0\0\n{"step": 11, "lo\n{"step": 12')
    found = status_at_now(run)
    assert (found.step, found.num_steps, found.eta_s) == (10, None, None)
    assert read_facts(run).problems
    assert table([found])
    (run / "metrics.jsonl").unlink()
    assert status_at_now(run).state == "damaged"
    assert "config.yaml" in status_at_now(run).why


def test_what_cannot_be_read_is_said_of_a_run_that_has_ended(tmp_path: Path) -> None:
    end = {"event": "end", "time": NOW - 10, "exit_code": 0}
    for change, said in (
        (lambda run: (run / "metrics.jsonl").mkdir(), "metrics.jsonl: Is a directory"),
        (
            lambda run: (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS | {"checkpoint": 3})),
            "checkpoint is no",
        ),
    ):
        run = make_run(tmp_path / str(len(said)), events=[start(), end])
        assert status_at_now(run).state == "stopped"
        change(run)
        assert status_at_now(run).state == "damaged"
        assert said in status_at_now(run).why


def test_a_run_without_rows_and_one_of_older_rows_have_a_line(tmp_path: Path) -> None:
    empty = make_run(tmp_path / "empty", events=[start()])
    old = make_run(tmp_path / "old")
    (old / "metrics.jsonl").write_text('{"step": 3, "tokens": 60}\n')
    shown = table([status_at_now(empty), status_at_now(old)]).splitlines()
    assert shown[1].split()[:3] == ["empty", "stopped", "0/40"]
    assert shown[2].split()[:3] == ["old", "stopped", "3/40"]


def test_of_a_huge_file_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", 3000)
    exact = step_seconds(run / "metrics.jsonl")
    assert exact == 3000 * 1.5
    monkeypatch.setattr(facts_module, "TAIL_BYTES", 5000)
    monkeypatch.setattr(facts_module, "WHOLE_BYTES", 2**17)
    assert last_rows(run / "metrics.jsonl")[-1]["step"] == 3000
    assert step_seconds(run / "metrics.jsonl") == pytest.approx(exact, rel=0.2)


def test_the_last_alarm_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 10)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(11, spike="spike: loss 9")) + "\n")
    assert "a: spike: loss 9" in table([status_at_now(run)])


def test_all_runs_are_shown_or_those_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status.main([]) == 0
    assert "no runs in" in capsys.readouterr().out
    make_run(tmp_path / "runs/b", 5)
    make_run(tmp_path / "runs/a", 7)
    (tmp_path / "runs/notes").mkdir()
    assert status.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "a", "b"]
    assert status.main(["runs/b", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["step"], found["state"]) == ("b", 5, "stopped")
    assert status.main(["runs/notes", "gone"]) == 2
    assert capsys.readouterr().err.count("no run directory") == 2
    with pytest.raises(SystemExit):
        status.main(["--watch", "0"])


def test_durations() -> None:
    assert [duration(s) for s in (None, 5, 125, 7500, 90_000)] == ["-", "5 s", "2 min", "2 h 05 min", "1 d 1 h"]


def test_it_starts_without_torch_and_without_wandb(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 10)
    code = (
        "import sys, launch.status; launch.status.main(sys.argv[1:]); "
        "print(sorted({'torch', 'wandb', 'numpy', 'omegaconf', 'hydra'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "last",
    [
        '{"step": 11, "tokens": 220, "seconds": {}}',
        '{"step": 11, "tokens": 220, "tokens_per_second": "a"}',
        json.dumps(row(11, loss="x")),
        json.dumps(row(11, phase=7)),
        json.dumps(row(11)).replace("4.0", "NaN"),
        '"total": 1.2.3, "checkpoint": 5',
        "[" * 100_000,
    ],
)
def test_one_run_with_odd_rows_does_not_hide_the_others(
    last: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, sound = make_run(tmp_path / "odd", 10, events=[start()]), make_run(tmp_path / "sound", 10)
    with (odd / "metrics.jsonl").open("a") as file:
        file.write(last + "\n")
    assert status.main([str(odd), str(sound)]) == 0
    assert re.search(r"^sound +stopped +10/40", capsys.readouterr().out, re.MULTILINE)
    assert status.main([str(odd), str(sound), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [one["run"] for one in found] == ["odd", "sound"]
