"""Which shards of a folder without a manifest are finished, so that a command that was stopped goes on from there.

What a job has finished has a record beside it, written last and by rename, with a hash of what it was made from: the
same input, tokenizer and settings give the same bytes. Anything else in a folder that was begun counts as never
written.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_pipelines.shards.manifest import ENDS, HASHES, NAMES, TOKENS, ShardRecord, join
from data_pipelines.shards.storage import local_path, locate

SUFFIX = ".finished.json"
BEGUN = "unfinished.json"
"""In the folder until its manifest is: the shards there may be written again."""


@dataclass(frozen=True)
class Finished:
    """What one job has written."""

    made_from: str
    """Hash of all that determines the bytes of the shards."""
    shards: tuple[ShardRecord, ...]
    """In their order; the first has the name of the job."""
    tally: dict[str, Any]
    """What became of the documents, for the report."""


@contextmanager
def begin(uri: str) -> Iterator[None]:
    """Marks the folder `uri` as one to be filled by the block, and by nobody else meanwhile. Raises ValueError where it
    has shards that are somebody's, and where another process is at work in it (on this machine, or over NFS)."""
    fs, folder = locate(uri)
    names = [path.rpartition("/")[2] for path in fs.ls(folder, detail=False)] if fs.isdir(folder) else []
    begun = BEGUN in names or any(name.endswith(SUFFIX) for name in names)  # versions until 85d52f1 left no BEGUN
    if (shards := [name for name in sorted(names) if name.endswith(TOKENS)]) and not begun:
        raise ValueError(f"{uri} has {shards[0]}, which would be written over; choose another folder, or move it away")
    fs.makedirs(folder, exist_ok=True)
    if local_path(uri) is None:
        fs.pipe_file(join(folder, BEGUN), b"{}\n")
        yield
        return
    with Path(folder, BEGUN).open("ab") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{uri}: another process is at work in it; wait for its end, or choose another folder"
            ) from error
        yield


def save_finished(uri: str, name: str, finished: Finished) -> None:
    """Notes that the job `name` of the folder `uri` is complete."""
    fs, folder = locate(uri)
    path = join(folder, name + SUFFIX)
    fs.pipe_file(path + ".tmp", json.dumps(asdict(finished)).encode())
    fs.mv(path + ".tmp", path)


def load_finished(uri: str, name: str, made_from: str) -> Finished | None:
    """The job `name`, if it is finished, was made from the same, and the files of its shards have their sizes."""
    fs, folder = locate(uri)
    try:
        finished = TypeAdapter(Finished).validate_json(fs.cat_file(join(folder, name + SUFFIX)))
        is_whole = all(
            fs.info(join(folder, shard.name + suffix))["size"] == file.bytes
            for shard in finished.shards
            for suffix, file in shard.files.items()
        )
    except (FileNotFoundError, ValidationError):
        return None
    return finished if is_whole and finished.made_from == made_from else None


def forget_finished(uri: str, *, keep: set[str]) -> None:
    """Removes the records, once a manifest holds all of them, and shards that it does not name: empty ones, and those
    of an earlier attempt with other settings."""
    fs, folder = locate(uri)
    for path in fs.ls(folder, detail=False):
        name = path.rpartition("/")[2]
        if (
            name == BEGUN
            or SUFFIX in name
            or (name.partition(".")[0] not in keep and name.endswith((TOKENS, ENDS, NAMES, HASHES)))
        ):
            fs.rm_file(path)
