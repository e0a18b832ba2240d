"""Standard output and error that can always be written to: that nobody reads them is no failure of a command.

`| head -1` closes a pipe that much is still to be said into, `2>&-` leaves no stream at all. The work is done all the
same, and the exit code says how it went.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TextIO


def keep_streams() -> None:
    """From now on, what is written to sys.stdout and sys.stderr is dropped where nobody reads it."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere(descriptor))
        elif isinstance(stream, io.TextIOWrapper) and _is_pipe(stream.fileno()):
            setattr(sys, name, _kept(stream))


class _Unread(io.FileIO):
    """A pipe whose reader may have gone."""

    def write(self, data, /) -> int:  # type: ignore[no-untyped-def]  # any buffer
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _kept(stream: io.TextIOWrapper) -> TextIO:
    stream.flush()
    raw = _Unread(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),  # type: ignore[arg-type]  # -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _nowhere(descriptor: int) -> TextIO:
    """Takes the place of a closed descriptor, which the next file that is opened would get: a shard, say."""
    null = os.open(os.devnull, os.O_WRONLY)  # the lowest that is free
    os.set_inheritable(null, null == descriptor)
    return open(null, "w", encoding="utf-8")


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
