"""launch/ranks.py: who is heard, who is blamed, and that nothing outlives its launcher."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from torch.distributed.launcher.api import LaunchConfig

from data_pipelines.base.errors import REQUEUE_EXIT, RESUME_ADVICE, Main, Stopped
from launch import ranks
from launch.ranks import launch_ranks
from train.process.warm import LINGER_S, STOP_SIGNALS, warm_up

ROOT = Path(__file__).parents[2]
PROGRAM = """
import signal
import sys
from pathlib import Path
from data_pipelines.base.errors import Stopped
from launch.ranks import launch_ranks
from train.process.warm import WARM, warm_up
from tests.launch import test_ranks
WARM.set_forkserver_preload(["torch.distributed.launcher.api", "tests.launch.test_ranks"])  # not the whole engine
warm_up()
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
folder = sys.argv[1]
try:
    launch_ranks(test_ranks.note_and_wait, [folder], num_ranks=2, run_dir=Path(folder, "run"))
except Stopped as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
"""
"""launch_ranks in a process of its own, which can be stopped, with a server of its own: ranks write where that does."""


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """Of this process; tests/train/runs.py uses the same."""
    warm_up()


# What ranks do


def note_and_wait(arguments: list[str]) -> int:
    """Leaves a file named after this process in a folder."""
    lock = multiprocessing.RLock()  # as tqdm makes one: a killed process leaves its semaphore
    print("this is rank", os.environ.get("RANK"), flush=True)
    Path(arguments[0], f"{os.getpid()}.pid").touch()
    try:
        time.sleep(60)
    finally:
        del lock
        print("no signal gives a rank the time to say this", file=sys.stderr)
    return 0


def fail_on_rank_1(arguments: list[str]) -> int:
    if os.environ["RANK"] == "1":
        print("disk full", file=sys.stderr)
        return 7
    time.sleep(60)
    return 0


def stop_as_asked(arguments: list[str]) -> int:
    return REQUEUE_EXIT


def raise_on_rank_1(arguments: list[str]) -> int:
    if os.environ["RANK"] == "1":
        raise RuntimeError("nobody expected this")
    time.sleep(60)
    return 0


def kill_rank_1_in_a_collective(arguments: list[str]) -> int:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))  # fails as soon as rank 1 has ended
    return 0


def note_threads(arguments: list[str]) -> int:
    import torch

    Path(arguments[0], os.environ["RANK"]).write_text(str(torch.get_num_threads()))
    return 0


def return_number(arguments: list[str]) -> int:
    return int(arguments[0])


# How a launch ends


def stopped(main: Main, folder: Path) -> Stopped:
    with pytest.raises(Stopped) as stop:
        launch_ranks(main, [], num_ranks=2, run_dir=folder)
    return stop.value


def test_a_failed_rank_stops_the_others_and_its_exit_code_and_last_words_are_kept(tmp_path: Path) -> None:
    stop = stopped(fail_on_rank_1, tmp_path)
    assert stop.exit_code == 7
    assert "rank 1 ended with exit code 7" in str(stop)
    assert "  | disk full" in str(stop)
    assert RESUME_ADVICE in str(stop)


def test_ranks_that_were_asked_to_stop_have_not_failed(tmp_path: Path) -> None:
    stop = stopped(stop_as_asked, tmp_path)
    assert stop.exit_code == REQUEUE_EXIT
    assert str(stop) == f"training stopped, as a rank was asked to. {RESUME_ADVICE}"


def test_an_unexpected_exception_is_kept_with_its_traceback(tmp_path: Path) -> None:
    stop = stopped(raise_on_rank_1, tmp_path)
    assert stop.exit_code == 1
    assert "  | RuntimeError: nobody expected this" in str(stop)
    assert "in raise_on_rank_1" in str(stop)


def test_a_killed_rank_is_named_though_the_others_fail_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_rarely(num_ranks: int, run_dir: Path) -> LaunchConfig:
        return replace(launch_config(num_ranks, run_dir), monitor_interval=0.8 * LINGER_S)

    launch_config = ranks._launch_config
    monkeypatch.setattr(ranks, "_launch_config", look_rarely)  # so that both ranks have failed when it does
    stop = stopped(kill_rank_1_in_a_collective, tmp_path)
    assert stop.exit_code == 128 + signal.SIGKILL
    assert "rank 1 was killed by SIGKILL" in str(stop)
    assert "out of memory" in str(stop)


def test_signals_are_handled_afterwards_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    launch_ranks(return_number, ["0"], num_ranks=1, run_dir=tmp_path)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize(("setting", "expected"), [("3", 3), (None, max(1, len(os.sched_getaffinity(0)) // 2))])
def test_a_rank_computes_with_omp_num_threads_or_its_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    launch_ranks(note_threads, [str(tmp_path)], num_ranks=2, run_dir=tmp_path / "run")
    assert [(tmp_path / rank).read_text() for rank in "01"] == [str(expected)] * 2


# A launcher of its own


@contextmanager
def program(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """PROGRAM in a process group of its own, as a shell starts a command, once both ranks wait."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as launcher:
        try:
            assert holds(lambda: len(running(folder)) == 2, within_s=60)
            yield launcher
        finally:
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)


def words(launcher: subprocess.Popen[str]) -> tuple[str, str]:
    """(stdout, stderr) of a launcher and all its processes, when the last of them has ended."""
    return launcher.communicate(timeout=10)


def holds(condition: Callable[[], bool], *, within_s: float) -> bool:
    """Whether the condition does at last."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def running(folder: Path) -> list[Path]:
    """Notes of ranks that have not ended. (A process that has ended is a zombie where nobody waits for orphans.)"""
    return [note for note in folder.glob("*.pid") if state(note.stem) not in ("Z", None)]


def state(pid: str) -> str | None:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return None


class Ended(NamedTuple):
    folder: Path
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def terminated(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A launcher after SIGHUP, which nohup lets it outlive, and SIGTERM, to it alone."""
    folder = tmp_path_factory.mktemp("terminated")
    with program(folder) as launcher:
        launcher.send_signal(signal.SIGHUP)
        assert not holds(lambda: len(running(folder)) < 2, within_s=0.5)
        launcher.send_signal(signal.SIGTERM)
        stdout, stderr = words(launcher)
        assert not running(folder)
        return Ended(folder, launcher.returncode, stdout, stderr)


def test_only_rank_0_is_heard_and_the_others_are_in_files(terminated: Ended) -> None:
    assert terminated.stdout == "this is rank 0\n"
    (log,) = terminated.folder.glob("run/logs/*/attempt_0/1/stdout.log")
    assert log.read_text() == "this is rank 1\n"


def test_a_signal_to_the_launcher_ends_the_ranks_with_one_message(terminated: Ended) -> None:
    assert terminated.exit_code == 128 + signal.SIGTERM
    assert terminated.stderr == f"stopped by SIGTERM. {RESUME_ADVICE}\n"


def test_ctrl_c_ends_the_ranks_with_one_message(tmp_path: Path) -> None:
    with program(tmp_path) as launcher:
        os.killpg(launcher.pid, signal.SIGINT)  # a terminal sends it to all: launcher, server, ranks
        _, stderr = words(launcher)
        assert not running(tmp_path)
    assert launcher.returncode == 128 + signal.SIGINT
    assert stderr == f"stopped by SIGINT. {RESUME_ADVICE}\n"


def test_a_killed_launcher_leaves_no_rank_behind(tmp_path: Path) -> None:
    with program(tmp_path) as launcher:
        launcher.kill()
        assert holds(lambda: not running(tmp_path), within_s=5)
