"""train/process/stop.py: a signal before there is something to save, and one after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.base.errors import REQUEUE_EXIT
from train.process.stop import hearing_stop_signals

ROOT = Path(__file__).parents[3]
DEAF = """
import ctypes, os, signal, threading
from train.process.stop import hearing_stop_signals
with hearing_stop_signals() as wish:
    {before}
    threading.Timer(0.1, os.kill, (os.getpid(), signal.{name})).start()
    for _ in range(2):  # a signal ends one sleep early
        ctypes.CDLL(None).sleep(1)
    print(wish)
"""


def deaf_program(name: str, *, before: str = "pass", rank: str = "0") -> tuple[int, str, str]:
    """Its main thread is in C when the signal comes, as in a collective, and no Python handler gets its turn there."""
    code = DEAF.format(name=name, before=before)
    environment = os.environ | {"RANK": rank}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_with_nothing_to_save_a_rank_ends_at_once_though_it_waits_for_others(name: str) -> None:
    words = f"\ntrain: {name}: nothing to save yet. The same command begins where this one did.\n"
    assert deaf_program(name) == (REQUEUE_EXIT, "", words)


def test_only_rank_0_speaks() -> None:
    assert deaf_program("SIGTERM", rank="1") == (REQUEUE_EXIT, "", "")


def test_with_something_to_save_it_goes_on_and_the_wish_is_known() -> None:
    words = "\ntrain: SIGUSR1: stopping after this step, with a checkpoint.\n"
    assert deaf_program("SIGUSR1", before="wish.can_wait()") == (0, "SIGUSR1\n", words)


def test_afterwards_signals_do_what_they_did_before() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with hearing_stop_signals() as wish:
            wish.can_wait()
            os.kill(os.getpid(), signal.SIGUSR1)
            deadline = time.monotonic() + 5
            while not wish and time.monotonic() < deadline:
                time.sleep(0.01)
            assert wish
        assert not heard
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)
