"""SIGTERM and SIGUSR1 ask a run to stop: what a cluster sends before it takes its nodes back, and `scancel`.

In the training loop they only leave a wish behind, which travels with the sums of the step, so that all ranks stop
after the same one, with a checkpoint (train/loop). Before the first step of a process has its sums there is nothing to
save, and a start can take minutes: the process ends at once.

    start-up -> "end at once" | the first totals -> "after this step" | Trainer.train returns

A thread hears the signals: the main one may be waiting in a collective for a rank that has ended already.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from data_pipelines.base.errors import REQUEUE_EXIT
from data_pipelines.base.rank import is_rank_0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopWish:
    """Whether this process was asked to stop, and by what."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._ends_at_once = True
        self.at_end: Callable[[str], object] = lambda reason: None
        """Called with the reason before the process ends at once."""

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def __str__(self) -> str:
        return self.signal_name or ""

    def can_wait(self) -> None:
        """From now on there is something to save, and a loop that looks at the wish after each step."""
        self._ends_at_once = False

    def hear(self, number: int) -> None:
        """Called by the thread that hears the signals."""
        if number in STOP_SIGNALS:
            self.signal_name = signal.Signals(number).name
            if self._ends_at_once:
                self._end()
            self._say("stopping after this step, with a checkpoint")

    def _end(self) -> None:
        """Without the main thread, which may never come back: no file of a start is half-written under its own name."""
        self._say("nothing to save yet. The same command begins where this one did")
        with suppress(OSError):
            self.at_end(f"asked to stop by {self}, with nothing to save yet")
        os._exit(REQUEUE_EXIT)

    def _say(self, what: str) -> None:
        if is_rank_0():
            os.write(sys.stderr.fileno(), f"\ntrain: {self.signal_name}: {what}.\n".encode())


@contextmanager
def hearing_stop_signals() -> Iterator[StopWish]:
    """While the block runs, STOP_SIGNALS leave a wish instead of ending the process."""
    wish = StopWish()
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    handlers = {number: signal.signal(number, _leave_it_to_the_thread) for number in STOP_SIGNALS}
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    Thread(target=_listen, args=(ours, wish), daemon=True).start()
    try:
        yield wish
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        pythons.close()  # which ends the thread


def _leave_it_to_the_thread(number: int, frame: object) -> None:
    """Python writes the number to the wakeup descriptor only where a handler is set."""


def _listen(numbers: socket.socket, wish: StopWish) -> None:
    with numbers:
        while received := numbers.recv(64):
            for number in received:
                wish.hear(number)
