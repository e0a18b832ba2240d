"""Which files a pattern means: `*`, `?` and `[abc]` stand for characters of a name, `**` for any number of folders.

A pattern without a store (`s3://`) is local, and read as it stands: `::`, `#` and `%` are characters like others. Local
links are followed, to folders too, and each file counts once, however many ways lead to it.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
from collections.abc import Iterator
from glob import has_magic
from typing import Any, NoReturn

from data_pipelines.documents import local
from data_pipelines.documents.content.stored import StoredFile
from data_pipelines.documents.kinds import hub
from data_pipelines.documents.saved import saved_files
from data_pipelines.shards.storage import local_path, locate, reaching


def stored_file(uri: str) -> StoredFile:
    """The file at a path or URI. Raises ValueError for a store that is unknown or not installed."""
    return StoredFile(*locate(uri))


def find_files(pattern: str, *, setting: str) -> dict[str, StoredFile]:
    """Name -> file, for all files that match, sorted by their paths.

    Names start below the deepest folder that holds all of them, so they stay the same where a corpus is moved. What is
    no file (a folder, a pipe) does not match. A pattern that matches nothing but is itself the name of a file means
    that file, that of a folder which Hugging Face `datasets` saved its files, `datasets://` a data set by name
    (kinds/hub.py). Raises ValueError, naming the `setting`, if there is no file; and for what would be left out: a link
    to nowhere, a folder without rights, two files of one name. OSError where the store fails.
    """
    if pattern.startswith(hub.PREFIX):
        return hub.find_shards(pattern, setting=setting)
    fs, path = locate(pattern)
    with reaching(pattern):
        if (local_pattern := local_path(pattern)) is not None:
            found = _find_local(local_pattern)
        else:
            found = [match for match, info in fs.glob(path, detail=True).items() if info["type"] != "directory"]
        if not found and fs.isfile(path):
            found = [path]
        elif not found and fs.isdir(path):
            found = saved_files(fs, path, setting=setting)
        if not found:
            raise ValueError(f"no file matches {setting}={pattern!r} {_reason(fs, path, pattern)}")
    folder = posixpath.commonpath([posixpath.dirname(match) for match in found])
    files: dict[str, StoredFile] = {}
    for match in sorted(found):
        name = _printable(posixpath.relpath(match, folder))
        if name in files:
            raise ValueError(f"two files of {setting}={pattern!r} would both be called {name}; rename one of them")
        files[name] = StoredFile(fs, match)
    return files


def _reason(fs: Any, path: str, pattern: str) -> str:
    """Why nothing matches, and what to do."""
    if fs.isdir(path):
        return f"({path} is a folder); name the files in it: {pattern.rstrip('/')}/**"
    if fs.exists(path):
        return f"({path} is a pipe or a device); write what it gives to a file first"
    return f"(looked for {path}); correct the pattern, which starts in the current folder if it is relative" + (
        "; a [ that is part of a name is written [[]" if "[" in pattern else ""
    )


def _printable(name: str) -> str:
    """`name` with the bytes that are no UTF-8 written as \\xff: names are stored as text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _find_local(pattern: str) -> list[str]:
    """Paths of the files; of several to the same file the one without links, else the first."""
    path = os.path.expanduser(pattern)
    start = "/" if path.startswith("/") else os.getcwd()
    parts = [part for part in path.split("/") if part not in ("", ".")]
    paths: dict[str, str] = {}
    for found in sorted(_matches(start, parts), key=lambda path: (os.path.islink(path), path)):
        real = os.path.realpath(found)
        paths[real] = real if found == real else paths.get(real, found)
    return list(paths.values())


def _matches(folder: str, parts: list[str]) -> Iterator[str]:
    """Files below `folder` that match a pattern of at least one part, some perhaps more than once."""
    part, *rest = parts or ["**"]
    if part == "**":
        for below in local.folders(folder, _refuse):
            yield from _matches(below, rest or ["*"])
        return
    for path in _children(folder, part):
        if rest and local.is_folder(path):
            yield from _matches(path, rest)
        elif not rest and local.is_file(path):
            yield path


def _children(folder: str, part: str) -> list[str]:
    """What may lie there: a part without magic is not looked for yet."""
    names = fnmatch.filter(local.names(folder), part) if has_magic(part) else [part]
    return [os.path.join(folder, name) for name in names]


def _refuse(error: ValueError) -> NoReturn:
    raise error
