"""One job a run directory: while it trains, rank 0 holds a lock on <run>/owner.json, which says who that is.

The system releases the lock when the process ends, however it ends, so nothing stale is left behind. Readers take none.
On a file system without locks, what the file says is believed while that process lives, or, where it is on another
host, while it renews the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread

from data_pipelines.base.errors import RUN_EXIT, ConfigError
from data_pipelines.base.rank import is_rank_0

FILE_NAME = "owner.json"

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer."""
RENEW_S = 10.0
LEASE_S = 60.0
"""How long an owner of another host is believed after its last sign. A job that starts waits for so long."""
SETTLE_S = 1.0


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
        descriptor = _open_locked(run_dir)
    except OSError as error:
        raise ConfigError([f"run.dir={run_dir}: cannot be written ({error}); choose another folder"]) from error
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
    content = json.dumps(owner).encode()
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
        _check_unshared(descriptor, content, run_dir)
        with _renewing(descriptor, content, run_dir):
            yield
    finally:
        if os.pread(descriptor, 4096, 0) in (content, b""):  # not, without locks, that of a job that wrote later
            (run_dir / FILE_NAME).unlink(missing_ok=True)  # while the lock is held
        if is_new:  # a start that was refused leaves no folder
            with suppress(OSError):
                run_dir.rmdir()
        os.close(descriptor)


@contextmanager
def _renewing(descriptor: int, content: bytes, run_dir: Path) -> Iterator[None]:
    """While the block runs, the file stays younger than RENEW_S. Should this process have been stopped for so long that
    another job has taken the folder, it ends before it writes anything more."""
    is_over = Event()

    def renew() -> None:
        while not is_over.wait(RENEW_S):
            with suppress(OSError):  # of a file server that is away for a while; then nobody else gets there, either
                if os.pread(descriptor, 4096, 0) != content:
                    words = (
                        f"\nerror: {run_dir}: another job has taken it over; was this process stopped for a while?\n"
                    )
                    os.write(sys.stderr.fileno(), words.encode())
                    os._exit(RUN_EXIT)
                os.utime(descriptor)

    thread = Thread(target=renew, name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _check_unshared(descriptor: int, content: bytes, run_dir: Path) -> None:
    """Without locks, two jobs that start at the same moment may both get here: the one that wrote last goes on."""
    if _has_locks(descriptor):
        return
    time.sleep(SETTLE_S)
    if (now := os.pread(descriptor, 4096, 0)) != content:
        raise ConfigError([f"run.dir={run_dir}: {_describe(now)}; wait, stop it, or name another run"])


def _has_locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS
    return True


def _open_locked(run_dir: Path) -> int:
    """The descriptor of the file of that name, locked: the one before may go between opening and locking."""
    path = run_dir / FILE_NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _has_locks(descriptor):
                _outwait(descriptor)
            _lock(descriptor, run_dir)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _outwait(descriptor: int) -> None:
    """Until the file is renewed, or is too old to be believed: the owner of another host may have been killed."""
    content, renewed = os.pread(descriptor, 4096, 0), os.fstat(descriptor).st_mtime
    is_believed = partial(_may_live, content)
    while not is_believed(age_s=LEASE_S) and is_believed(age_s=time.time() - renewed):
        if os.fstat(descriptor).st_mtime != renewed:
            return
        time.sleep(SETTLE_S)


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
    except OSError as error:
        content = os.pread(descriptor, 4096, 0)
        if error.errno in NO_LOCKS and not _may_live(content, age_s=time.time() - os.fstat(descriptor).st_mtime):
            return
        if error.errno not in (*NO_LOCKS, errno.EWOULDBLOCK):
            raise
        raise ConfigError([f"run.dir={run_dir}: {_describe(content)}; wait, stop it, or name another run"]) from error


def _may_live(content: bytes, *, age_s: float) -> bool:
    """Whether the process that wrote the file may still run: one of another host cannot be asked, but renews it."""
    try:
        owner = json.loads(content)
        if owner["host"] != socket.gethostname():
            return age_s < LEASE_S
        os.kill(owner["process"], 0)
    except PermissionError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return owner["process"] != os.getpid()


def _describe(content: bytes) -> str:
    try:
        owner = json.loads(content)
        age = readable(time.time() - owner["since"])
        return f"process {owner['process']} on {owner['host']} has been training there for {age}"
    except (ValueError, KeyError, TypeError):  # it has the lock and is about to write
        return "another job has just begun to train there"


def readable(seconds: float) -> str:
    """A duration in the largest unit of which it has two: 90 s, 90 min, 47 h, 3 days."""
    units = {"days": 86_400, "h": 3_600, "min": 60}
    unit, size = next(((unit, size) for unit, size in units.items() if seconds >= 2 * size), ("s", 1))
    return f"{max(seconds, 0) / size:.0f} {unit}"
