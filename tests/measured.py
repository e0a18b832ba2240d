"""Runs a command of this project and says what it took: seconds, seconds of the processor, memory.

A command is measured from outside, with its children: getrusage would count the memory of the process that starts it,
which the system takes over to the child.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Taken(NamedTuple):
    exit_code: int
    output: str
    """stdout and stderr, as they came."""
    first_output_s: float
    cpu_s: float
    """Of the command and the processes that it waited for."""
    peak_bytes: int
    """The most that the command itself had in memory."""


def run_measured(module: str, *arguments: str, folder: Path = ROOT) -> Taken:
    """`python -m module arguments`, in `folder`. first_output_s is that of the clock; the rest holds beside load."""
    command = [sys.executable, "-u", "-m", module, *arguments]
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read(1)
        first_output_s, peak = time.monotonic() - started, 0
        os.set_blocking(process.stdout.fileno(), False)
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            peak = max(peak, status_bytes("VmHWM", process.pid))
            output += process.stdout.read() or b""
            time.sleep(0.02)
        output += process.stdout.read() or b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Taken(process.returncode, output.decode(), first_output_s, used.ru_utime + used.ru_stime, peak)


def status_bytes(key: str, process: int | str = "self") -> int:
    """A line of a process's status, 0 where it has ended; VmHWM is its peak of VmRSS."""
    match = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(match[1]) * 1024 if match else 0
