"""Which shards of a folder without a manifest are finished, so that a command that was stopped goes on from there.

A finished shard has its record beside it, written last and by rename, with a hash of what it was made from: the same
input, tokenizer and settings give the same bytes. Anything else in a folder that was begun counts as never written.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_pipelines.shards.manifest import TOKENS, ShardRecord, join
from data_pipelines.shards.storage import locate

SUFFIX = ".finished.json"
BEGUN = "unfinished.json"
"""In the folder until its manifest is: the shards there may be written again."""


@dataclass(frozen=True)
class _Finished:
    made_from: str
    record: ShardRecord


def begin(uri: str) -> None:
    """Marks the folder `uri` as one to be filled. Raises ValueError where it has shards that are somebody's."""
    fs, folder = locate(uri)
    names = [path.rpartition("/")[2] for path in fs.ls(folder, detail=False)] if fs.isdir(folder) else []
    begun = BEGUN in names or any(name.endswith(SUFFIX) for name in names)  # versions until 85d52f1 left no BEGUN
    if (shards := [name for name in sorted(names) if name.endswith(TOKENS)]) and not begun:
        raise ValueError(f"{uri} has {shards[0]}, which would be written over; choose another folder, or move it away")
    fs.makedirs(folder, exist_ok=True)
    fs.pipe_file(join(folder, BEGUN), b"{}\n")


def save_finished(uri: str, record: ShardRecord, made_from: str) -> None:
    """Notes that the shard of the folder `uri` is complete. made_from: hash of all that determines its bytes."""
    fs, folder = locate(uri)
    path = join(folder, record.name + SUFFIX)
    fs.pipe_file(path + ".tmp", json.dumps({"made_from": made_from, "record": asdict(record)}).encode())
    fs.mv(path + ".tmp", path)


def load_finished(uri: str, name: str, made_from: str) -> ShardRecord | None:
    """The record of shard `name`, if it is finished, was made from the same, and its files have their sizes."""
    fs, folder = locate(uri)
    try:
        finished = TypeAdapter(_Finished).validate_json(fs.cat_file(join(folder, name + SUFFIX)))
        sizes = {suffix: fs.info(join(folder, name + suffix))["size"] for suffix in finished.record.files}
    except (FileNotFoundError, ValidationError):
        return None
    is_whole = all(sizes[suffix] == file.bytes for suffix, file in finished.record.files.items())
    return finished.record if is_whole and finished.made_from == made_from else None


def forget_finished(uri: str) -> None:
    """Removes the records, once a manifest holds all of them."""
    fs, folder = locate(uri)
    fs.rm_file(join(folder, BEGUN))
    for path in fs.glob(join(folder, f"*{SUFFIX}*")):
        fs.rm_file(path)
