"""Stacks of the ranks of a host, also of those that are stopped or hang.

Each rank lets faulthandler write all its stacks on SIGUSR2 into a file in memory. That happens in C, whoever holds the
lock of the interpreter; a neighbour wakes the process, sends the signal, and reads the file through /proc.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

SIGNAL = signal.SIGUSR2
PATIENCE_S = 5.0
"""For a process to begin to write its stacks: it does that first of all when it runs again."""
PAUSE_S = 0.2
"""Without a further line, they are whole."""


def answer_with_stacks() -> int:
    """From now on, this process does. Returns the descriptor of its file."""
    descriptor = os.memfd_create("stacks")
    faulthandler.register(SIGNAL, file=descriptor, all_threads=True, chain=False)
    return descriptor


def stop_answering(descriptor: int) -> None:
    faulthandler.unregister(SIGNAL)
    os.close(descriptor)


def stacks_of(process: int, descriptor: int) -> str:
    """Of a process on this host that answers; what is known where it does not."""
    file = Path(f"/proc/{process}/fd/{descriptor}")
    try:
        before = len(file.read_bytes())
        os.kill(process, signal.SIGCONT)
        os.kill(process, SIGNAL)
        deadline = time.monotonic() + PATIENCE_S
        while len(text := file.read_bytes()) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        while len(text) > before:
            time.sleep(PAUSE_S)
            if len(more := file.read_bytes()) == len(text):
                break
            text = more
        return text[before:].decode(errors="replace") or f"process {process} does not answer\n"
    except OSError as error:
        return f"process {process} has ended ({error})\n"
