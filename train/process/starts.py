"""<run>/starts.jsonl: each start of a run and how it ended, for whoever decides whether to start it once more.

One JSON object a line, appended in one write, so that two writers do not mix. A start whose process was killed has no
end. Times are seconds since 1970.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.base.errors import REQUEUE_EXIT
from data_pipelines.base.rank import is_rank_0, node_name

if TYPE_CHECKING:
    from train.process.stop import StopWish

FILE_NAME = "starts.jsonl"
TYPES = {"time": (int, float), "step": int, "exit_code": int, "jobs": list, "suspects": list}
NEEDED = {"start": ("time", "step"), "end": ("step", "exit_code"), "decision": ("step",), "submit": ("jobs",)}
"""Event -> keys that a reader relies on."""


@dataclass
class End:
    """How a start ended, as far as it is known."""

    exit_code: int = 0
    reason: str = "reached its last step"


@contextmanager
def recorded(
    run_dir: Path,
    *,
    ranks: int,
    last_step: Callable[[], int],
    exit_codes: Mapping[type[Exception], int],
    wish: StopWish,
) -> Iterator[End]:
    """Writes a start before the block and its end after it.

    last_step: that of the last complete checkpoint, 0 where there is none.

    The block may say how it ended; for errors that is known. exit_codes: of those that the command answers. wish: what
    ends the process at once where there is nothing to save. Other ranks than 0 write nothing.
    """
    if not is_rank_0():
        yield End()
        return
    append_event(
        run_dir,
        "start",
        host=node_name(),
        job=os.environ.get("SLURM_JOB_ID"),
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        nodes=os.environ.get("SLURM_JOB_NODELIST"),
        ranks=ranks,
        step=last_step(),
    )
    end = End()

    def write_end(exit_code: int, reason: str) -> None:
        append_event(run_dir, "end", step=last_step(), exit_code=exit_code, reason=reason)

    wish.at_end = partial(write_end, REQUEUE_EXIT)
    try:
        yield end
    except BaseException as error:
        end.exit_code = next((code for kind, code in exit_codes.items() if isinstance(error, kind)), 1)
        end.reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        wish.at_end = lambda reason: None
        write_end(end.exit_code, end.reason)


def append_event(run_dir: Path, event: str, **what: Any) -> None:
    """Adds a line. Raises OSError, also where only a part of it could be written."""
    line = (json.dumps({"event": event, "time": time.time(), **what}) + "\n").encode()
    descriptor = os.open(run_dir / FILE_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # the disk was full
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run_dir / FILE_NAME))
    finally:
        os.close(descriptor)


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """In their order; without a line that is torn or that somebody else wrote."""
    path = run_dir / FILE_NAME
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [dict(event) for event in map(_event, lines) if event is not None]


def _event(line: str) -> Mapping[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    is_whole = all(key in event for key in NEEDED.get(event["event"], ()))
    has_types = all(isinstance(event[key], TYPES[key]) for key in TYPES.keys() & event.keys())
    names = [name for key in ("jobs", "suspects") if isinstance(event.get(key), list) for name in event[key]]
    return event if is_whole and has_types and _are_names(names) else None


def _are_names(names: list[Any]) -> bool:
    """Of jobs and nodes, that end in command lines of SLURM."""
    return all(isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) for name in names)
