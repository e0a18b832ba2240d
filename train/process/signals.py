"""How a command ends when a signal comes."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from data_pipelines.base.errors import RESUME_ADVICE


def stop_on_ctrl_c() -> None:
    """At once, except in the training, which answers signals itself. An exception would not do: where one comes in the
    midst of an import it can be swallowed, and the run goes on with half a module."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell ignores it in what it runs in the background
        signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: object) -> NoReturn:
    name = signal.Signals(number).name
    os.write(sys.stderr.fileno(), f"\nerror: stopped by {name}. {RESUME_ADVICE}\n".encode())
    os._exit(128 + number)
