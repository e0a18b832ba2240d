"""Where a URI leads: fsspec, whose stores beyond local files are packages of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

_LOCAL = re.compile(r"(?i:file|local)://")


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


def absolute(uri: str) -> str:
    """A local path from the root, so that it means the same from any current folder; another URI as it is."""
    return uri if local_path(uri) is None else locate(uri)[1]
