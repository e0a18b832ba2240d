"""launch/local.py: the order of its phases and, above all, how it stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import local

ROOT = Path(__file__).parents[2]


def write_script(folder: Path, body: str) -> str:
    """A stand-in for `-m train`: a rank without torch starts in no time."""
    path = folder / "rank.py"
    path.write_text("import os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + textwrap.dedent(body))
    return str(path)


def stopped_ranks(folder: Path, body: str, *, num_ranks: int = 2) -> local.Stopped:
    with pytest.raises(local.Stopped) as stopped:
        local.launch_ranks([write_script(folder, body)], num_ranks=num_ranks, run_dir=folder / "run")
    return stopped.value


def test_the_smoke_experiment_is_the_default_and_can_be_replaced() -> None:
    assert local.with_experiment(["run.name=a"]) == ["experiment=smoke", "run.name=a"]
    assert local.with_experiment(["experiment=other"]) == ["experiment=other"]


def test_every_rank_is_started_and_only_rank_0_is_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = write_script(tmp_path, "print('this is rank', rank)")
    local.launch_ranks([script], num_ranks=2, run_dir=tmp_path / "run")
    assert capfd.readouterr().out == "this is rank 0\n"
    (log,) = (tmp_path / "run").glob("logs/*/attempt_0/1/stdout.log")
    assert log.read_text() == "this is rank 1\n"


def test_a_failed_rank_stops_the_others_and_its_exit_code_and_last_words_are_kept(tmp_path: Path) -> None:
    stop = stopped_ranks(tmp_path, "if rank == 1: sys.exit(print('disk full', file=sys.stderr) or 7)\ntime.sleep(60)")
    assert stop.exit_code == 7
    assert "rank 1 ended with exit code 7" in str(stop)
    assert "  | disk full" in str(stop)
    assert "goes on from the last complete checkpoint" in str(stop)


def test_a_killed_rank_gives_the_exit_code_of_its_signal(tmp_path: Path) -> None:
    stop = stopped_ranks(tmp_path, "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)")
    assert stop.exit_code == 128 + 9
    assert "rank 1 was killed by SIGKILL" in str(stop)
    assert "out of memory" in str(stop)


def test_a_signal_ends_the_ranks_and_is_the_exit_code(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = write_script(tmp_path, f"open(f'{pids}/{{os.getpid()}}', 'w').close()\ntime.sleep(60)")
    program = f"""
from pathlib import Path
from launch import local
try:
    local.launch_ranks([{script!r}], num_ranks=2, run_dir=Path({str(tmp_path)!r}))
except local.Stopped as stop:
    exit(stop.exit_code)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait() == 128 + signal.SIGTERM
    assert not [pid for pid in pids.iterdir() if Path("/proc", pid.name).exists()]


def test_a_bad_configuration_exits_2_with_all_problems_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert local.main([f"run.dir={run_dir}", "training.stepz=1", "optimizer.muon.lrr=1"]) == 2
    message = capsys.readouterr().err
    assert "training.stepz" in message
    assert "optimizer.muon.lrr" in message
    assert not run_dir.exists()


def test_the_first_line_comes_within_a_second() -> None:
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "launch.local"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - started
    process.kill()
    process.communicate()
    assert line == "== configuration: experiment=smoke\n"
    assert seconds < 1.0


class TestPhases:
    """main with its phases replaced by notes of their names."""

    @pytest.fixture(autouse=True)
    def notes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        notes: list[str] = []
        run = SimpleNamespace(run_dir=tmp_path / "run", world_size=2)
        monkeypatch.setattr(local, "check", lambda overrides: run)
        monkeypatch.setattr(local, "prepare_data", lambda run: notes.append("data"))
        monkeypatch.setattr(local, "launch_ranks", lambda arguments, **_: notes.append("train"))
        monkeypatch.setattr(local.subprocess, "call", lambda command: notes.append("export") or 0)
        monkeypatch.setattr(local, "report", lambda run: notes.append("report"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        return notes

    def test_a_run_ends_with_the_line_that_loads_its_model(
        self, notes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert local.main([]) == 0
        assert notes == ["data", "train", "export", "report"]
        line = capsys.readouterr().out.splitlines()[-1]
        assert f'pipeline("text-generation", "{tmp_path}/run/hf")' in line

    def test_a_failed_training_is_neither_exported_nor_reported(
        self, notes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(arguments: list[str], **_: object) -> None:
            raise local.Stopped("loss is not finite", exit_code=3)

        monkeypatch.setattr(local, "launch_ranks", fail)
        assert local.main([]) == 3
        assert notes == ["data"]
        assert "error: loss is not finite" in capsys.readouterr().err

    def test_a_failed_export_keeps_its_exit_code(self, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local.subprocess, "call", lambda command: 5)
        assert local.main([]) == 5
        assert notes == ["data", "train"]
