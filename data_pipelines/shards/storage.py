"""Where a URI leads: fsspec, whose stores beyond local files are packages of their own."""

from __future__ import annotations

from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem


def locate(uri: str) -> tuple[Any, str]:
    """The file system of `uri` and the path in it. Raises ValueError for a store that is unknown or not installed.

    What names no store is a local path, whatever its characters: fsspec would take `File::Spec` for a chain of stores.
    Local paths come back absolute. Any: fsspec's annotations leave the results of its file systems open.
    """
    if "://" not in uri.removeprefix("file://"):
        return LocalFileSystem(), LocalFileSystem._strip_protocol(uri)
    try:
        return url_to_fs(uri)
    except ImportError as error:  # "Install s3fs to access S3"
        raise ValueError(
            f"{uri}: {error}: it is not among this project's packages; pip install it into the environment, or copy "
            "the files to a local folder"
        ) from error


def absolute(uri: str) -> str:
    """A local path from the root, so that it means the same from any current folder; another URI as it is."""
    return locate(uri)[1] if "://" not in uri.removeprefix("file://") else uri
