"""One job a run directory: while it trains, rank 0 holds a lock on <run>/owner.json, which says who that is.

The system releases the lock when the process ends, however it ends, so nothing stale is left behind. Readers take none.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.rank import is_rank_0

FILE_NAME = "owner.json"


@contextmanager
def owned(run_dir: Path) -> Iterator[None]:
    """Makes this job the only one on `run_dir` while the block runs. Raises ConfigError, naming the other one.

    Other ranks than 0 take nothing: they end when the launcher sees rank 0 end.
    """
    if not is_rank_0():
        yield
        return
    is_new = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run_dir / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError([f"run.dir={run_dir}: cannot be written ({error}); choose another folder"]) from error
    try:
        _lock(descriptor, run_dir)
        owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
        (run_dir / FILE_NAME).unlink(missing_ok=True)
    finally:
        os.close(descriptor)
        if is_new:  # a start that was refused leaves no folder
            with suppress(OSError):
                if [entry.name for entry in run_dir.iterdir()] == [FILE_NAME]:
                    (run_dir / FILE_NAME).unlink()
                    run_dir.rmdir()


def refuse_owned(run_dir: Path) -> None:
    """Raises ConfigError where another job trains in `run_dir` now."""
    with suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(run_dir / FILE_NAME, os.O_RDWR)
        try:
            _lock(descriptor, run_dir)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, run_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            [f"run.dir={run_dir}: {_describe(os.pread(descriptor, 4096, 0))}; wait, stop it, or name another run"]
        ) from error


def _describe(content: bytes) -> str:
    try:
        owner = json.loads(content)
        minutes = (time.time() - owner["since"]) / 60
        return f"process {owner['process']} on {owner['host']} trains there since {minutes:.1f} minutes"
    except (ValueError, KeyError, TypeError):  # it has the lock and is about to write
        return "another job has just begun to train there"
