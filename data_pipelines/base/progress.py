"""Progress of long work: a bar that a terminal overwrites, lines in a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO, cast

from tqdm import tqdm

LOG_INTERVAL_S = 10.0
"""A file keeps every picture of the bar."""


def progress_bar(*, file: TextIO | None = None, **options: Any) -> tqdm[Any]:
    """tqdm(**options) on `file` (default: stderr)."""
    file = file or cast(TextIO, sys.stderr)  # run_command keeps one
    if file.isatty():
        return tqdm(file=file, dynamic_ncols=True, mininterval=0.5, **options)
    return tqdm(file=_Lines(file), mininterval=LOG_INTERVAL_S, maxinterval=LOG_INTERVAL_S, **options)


class _Lines:
    """A file to tqdm, which draws over its last picture: each becomes a line, once."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._last = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        picture = text.strip()
        if picture and picture != self._last:
            self._last = picture
            self._file.write(f"{picture}\n")
