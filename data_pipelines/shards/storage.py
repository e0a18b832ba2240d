"""Where a URI leads: fsspec, whose stores beyond local files are packages of their own."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

_LOCAL = re.compile(r"(?i:file|local)://")
WAITS_S = (1.0, 4.0, 15.0, 60.0)
"""Between tries at a store that fails: long enough for a restart of it, and all below `watchdog.stall_after_s`."""
_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What no second try mends."""

T = TypeVar("T")


def local_path(uri: str) -> str | None:
    """The path that `uri` stands for as it was given, `~` and all; None where it names a store.

    What names no store is a local path, whatever its characters: fsspec would take `File::Spec` for a chain of stores.
    """
    path = _LOCAL.sub("", uri, count=1) if _LOCAL.match(uri) else uri
    return None if "://" in path else path


def locate(uri: str) -> tuple[Any, str]:
    """The file system of `uri` and the path in it. Raises ValueError for a store that is unknown or not installed.

    Local paths come back absolute. Any: fsspec's annotations leave the results of its file systems open.
    """
    if (path := local_path(uri)) is not None:
        return LocalFileSystem(), LocalFileSystem._strip_protocol(path)
    try:
        with reaching(uri):
            return url_to_fs(uri)
    except ImportError as error:  # "Install s3fs to access S3"
        raise ValueError(
            f"{uri}: {error}: it is not among this project's packages; pip install it into the environment, or copy "
            "the files to a local folder"
        ) from error
    except ValueError as error:  # "Protocol not known: gopher"
        raise ValueError(
            f"{uri}: {error}; give a store that fsspec knows (s3://, gs://, hf://, https://, ...) or a local path"
        ) from error


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Makes an OSError of what a store raises that is none: httpx and botocore have exceptions of their own."""
    try:
        yield
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:
        if local_path(uri) is not None:
            raise
        raise OSError(
            f"{uri} cannot be reached ({type(error).__name__}: {error}); check the address, the network and the "
            "credentials"
        ) from error


def patiently(uri: str, read: Callable[[], T]) -> T:
    """What `read` gives. A store that fails is asked again after each of WAITS_S, which is said once; a disk is not.

    fsspec's own file systems come first: s3fs and gcsfs repeat what they know to pass, those behind https:// and hf://
    nothing. Raises OSError with the address.
    """
    if local_path(uri) is not None:
        return read()
    waits = iter(WAITS_S)
    while True:
        try:
            with reaching(uri):
                return read()
        except _LASTING:
            raise
        except OSError as error:
            wait_s = next(waits, None)
            if wait_s is None:
                raise OSError(f"{uri} cannot be read, tried {len(WAITS_S) + 1} times: {error!r}") from error
            if wait_s == WAITS_S[0]:
                print(f"{uri}: {error!r}; trying again, for {sum(WAITS_S):.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait_s)


def read_local(path: str, start: int, stop: int) -> bytes:
    """Bytes start .. stop-1 of a local file, fewer where it ends before. Raises OSError."""
    file = os.open(path, os.O_RDONLY)
    try:
        pieces, at = [], start
        while at < stop and (piece := os.pread(file, stop - at, at)):  # one call reads 2 GiB at most
            pieces.append(piece)
            at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(file)


def absolute(uri: str) -> str:
    """A local path from the root, so that it means the same from any current folder; another URI as it is."""
    return uri if local_path(uri) is None else locate(uri)[1]
