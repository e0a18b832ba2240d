"""How a command ends when Ctrl-C, SIGTERM or SIGHUP comes: nothing half-written, one line, exit code 128 + n."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial
from threading import Timer
from types import FrameType

from data_pipelines.base.rank import is_rank_0

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 10.0
"""Time for what must be tidied up, such as a file that is half written; then the process ends all the same."""


class Interrupted(KeyboardInterrupt):
    """A signal came."""

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}. {advice}".rstrip())
        self.exit_code = 128 + number

    def say(self) -> int:
        """One line, below a progress bar if there is one; returns the exit code."""
        with suppress(OSError):  # the terminal may be gone: that is what SIGHUP says
            os.write(sys.stderr.fileno(), f"\nerror: {self}\n".encode())
        return self.exit_code


def end_on_signals(advice: str) -> None:
    """From now on, each of SIGNALS raises Interrupted, which says `advice`; a second one ends the process at once.

    Of the ranks of a run, rank 0 speaks and the others end silently.
    """
    for number in SIGNALS:
        # A shell ignores SIGINT in what it runs in the background, and nohup SIGHUP.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, partial(_end, advice) if is_rank_0() else signal.SIG_DFL)


def interruption(error: BaseException | None) -> Interrupted | None:
    """The Interrupted that `error` is, or that was on its way when `error` came in between."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def _end(advice: str, number: int, frame: FrameType | None) -> None:
    for other in SIGNALS:
        if signal.getsignal(other) is not signal.SIG_IGN:
            signal.signal(other, signal.SIG_DFL)
    stop = Interrupted(number, advice)
    if _is_importing(frame):
        os._exit(stop.say())  # an exception in the midst of an import can be swallowed: half a module would go on
    deadline = Timer(GRACE_S, lambda: os._exit(stop.say()))
    deadline.daemon = True
    deadline.start()
    raise stop


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
