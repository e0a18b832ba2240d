"""How a command ends when Ctrl-C or SIGTERM comes: one line at once, nothing half-written, exit code 128 + n."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from threading import Timer
from types import FrameType

from data_pipelines.base.rank import is_rank_0

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 10.0
"""Time for what must be tidied up, such as a file that is half written; then the process ends all the same."""


class Interrupted(KeyboardInterrupt):
    """A signal came, and the user has been told."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def end_on_signals(advice: str) -> None:
    """From now on, each of SIGNALS says one line with `advice` and raises Interrupted; a second one ends at once.

    Of the ranks of a run, rank 0 speaks and the others end silently.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell ignores SIGINT in what it runs in the background
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
    line = f"\nerror: stopped by {signal.Signals(number).name}. {advice}".rstrip()
    os.write(sys.stderr.fileno(), f"{line}\n".encode())
    if _is_importing(frame):
        os._exit(128 + number)  # an exception in the midst of an import can be swallowed: half a module would go on
    deadline = Timer(GRACE_S, os._exit, [128 + number])
    deadline.daemon = True
    deadline.start()
    raise Interrupted(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
