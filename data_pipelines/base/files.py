"""Files and folders that are there whole or not at all: written beside their place, then renamed.

A name must not become true before its bytes do: they are flushed to the disk first, so that a power failure leaves the
old file or the new one. The temporary name carries host and process, so that two processes never share one, and what a
killed process left can be told from what is being written.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class NoRoomError(OSError):
    """A disk is full, or what its owner may use of it."""


@contextmanager
def room_in(place: str) -> Iterator[None]:
    """Names `place`, a setting or a file, and the remedy where a disk runs full in the block: a failed write names
    nothing. Of several around each other the outermost speaks. Raises NoRoomError."""
    try:
        yield
    except OSError as error:
        full = error.__cause__ if isinstance(error, NoRoomError) else error
        if not isinstance(full, OSError) or full.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoomError(
            f"{place}: no room is left on its disk ({full.strerror}); make some, or choose a place on another disk"
        ) from full


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """An empty file beside `path` to be filled in the block; it replaces `path` at the end, or goes if the block fails.

    durable: flush before the rename; not for what can be made again at any time. Raises OSError.
    """
    with room_in(str(path)):
        partial = _beside(path)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield partial
            if durable:
                flush(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    if durable:
        flush(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to be filled in the block; it replaces `path` at the end, or goes if that fails.

    Makes the folders above. Whether a folder that is there may be replaced is for the caller to know. Raises OSError.
    """
    with room_in(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _beside(path)
        partial.mkdir()
        try:
            yield partial
            for file in sorted(partial.rglob("*")):
                flush(file)
            flush(partial)
            _replace_folder(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    flush(path.parent)


def write_whole(path: Path, text: str) -> None:
    """`text` in UTF-8 as the whole content of `path`, on the disk when this returns. Raises OSError."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_folder(finished: Path, path: Path) -> None:
    """A folder cannot be renamed onto another: the old one steps aside first, and goes when the new one is in place."""
    if not path.exists():
        os.rename(finished, path)
        return
    old = _beside(path)
    os.rename(path, old)
    try:
        os.rename(finished, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A new name in the same folder. What killed processes of this machine left under such names is removed."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    ours = re.compile(rf"{re.escape(path.name)}\.{host}-(\d+)-[0-9a-f]{{8}}\.tmp")
    for entry in path.parent.iterdir():
        if (match := ours.fullmatch(entry.name)) and not _is_running(int(match[1])):
            with suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return path.with_name(f"{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
