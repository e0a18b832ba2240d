"""train/watchdog/stacks.py: a stopped process is woken up and shows where it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from train.watchdog.stacks import stacks_of

ROOT = Path(__file__).parents[3]
PROGRAM = """
import time
from train.watchdog.stacks import answer_with_stacks
def waits_in_a_collective():
    print(answer_with_stacks(), flush=True)
    time.sleep(60)
waits_in_a_collective()
"""


def test_a_stopped_process_is_woken_up_and_its_stacks_are_read() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        descriptor = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGSTOP)
        stacks = stacks_of(process.pid, descriptor)
        assert "in waits_in_a_collective" in stacks
        assert (
            stacks_of(process.pid, descriptor).count("in waits_in_a_collective") == 1
        )  # what was written before stays
        process.kill()
    assert "has ended" in stacks_of(process.pid, descriptor)
