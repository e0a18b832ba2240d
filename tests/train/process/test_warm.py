"""train/process/warm.py: a program in a process that is warm ends, prints and computes as it would on its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from train.process.warm import run_warm, start_warm, warm_up


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """Of this process; tests/train/runs.py uses the same."""
    warm_up()


def wait(arguments: list[str]) -> int:
    time.sleep(60)
    return 0


def return_number(arguments: list[str]) -> int:
    return int(arguments[0])


def say_threads(arguments: list[str]) -> int:
    import torch

    print(*arguments, torch.get_num_threads())
    print("to stderr, too", file=sys.stderr)
    return 3


def kill_itself(arguments: list[str]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize("number", [0, 5])
def test_a_warm_process_gives_the_exit_code_of_its_program(number: int) -> None:
    assert run_warm(return_number, [str(number)]) == number


def test_a_warm_process_that_is_killed_gives_the_exit_code_of_the_signal() -> None:
    assert run_warm(kill_itself, []) == 128 + signal.SIGKILL


def test_a_started_process_prints_into_its_log_and_computes_with_its_threads(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("of the start before\n")
    process = start_warm(say_threads, ["threads:"], log=log, num_threads=3)
    process.join()
    assert process.exitcode == 3
    assert sorted(log.read_text().splitlines()) == ["of the start before", "threads: 3", "to stderr, too"]


def test_an_interrupted_launcher_leaves_no_warm_process_behind() -> None:
    Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        run_warm(wait, [])
    deadline = time.monotonic() + 5
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.02)
