"""What W&B has of a run, as its files say: the run's id, and the steps that lie in its offline folders.

    <run>/wandb_id                                   one W&B run for the life of the run directory
    <run>/checkpoint/step-N/wandb_id                 the same, for a run directory that has lost its own
    <run>/wandb/offline-run-TIME-ID/run-ID.wandb     a start's records: blocks of 32 KiB, each of whole or parted chunks

W&B's process writes whole blocks. One that was killed leaves a file that ends inside a record, or has none at all, and
`wandb sync` stops at such a file and leaves the later starts of the run out. `mend` cuts it where it is whole.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from data_pipelines.base.files import write_whole

ID_FILE = "wandb_id"

# The format of LevelDB's log, with a header: wandb/core/internal/transactionlog
BLOCK_BYTES = 2**15
FILE_HEADER_BYTES = 7
CHUNK_HEADER = struct.Struct("<IHB")
"""Checksum, length, kind."""
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
TAIL_BYTES = 32 * BLOCK_BYTES
"""How much of a file's end is read first; all of it where that has not what is looked for."""


REST_S = 5.0


class Record(NamedTuple):
    payload: bytes
    """A protobuf, wandb.proto.wandb_internal_pb2.Record."""
    end: int
    """Offset in the file of the first byte after it."""


def run_id(run_dir: Path, checkpoints: Iterable[Path]) -> str:
    """The id of the run: its own, or that of the first of `checkpoints` (its own, newest first) that has one, or new.

    Writes it to <run>/wandb_id where that is missing or empty.
    """
    path = run_dir / ID_FILE
    candidates = (_read(file) for file in (path, *(folder / ID_FILE for folder in checkpoints)))
    found = next(filter(None, candidates), "") or uuid4().hex[:8]
    if _read(path) != found:
        write_whole(path, found)
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def record_files(run_dir: Path, run_id: str) -> list[Path]:
    """Of each start, online or not, in their order."""
    files = (run_dir / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb")
    return sorted(files, key=lambda file: file.parent.name.removeprefix("offline-"))


def mend(path: Path) -> None:
    """Cuts a file of records after the last whole one; one without any gets another name, which W&B does not look for.

    W&B's process writes for a moment after the run's has ended: waits until the file has rested for REST_S.
    """
    rested_s = max(0.0, time.time() - path.stat().st_mtime)
    time.sleep(max(0.0, REST_S - rested_s))
    end = next((record.end for record in _last_records(path)), 0)
    if end == 0:
        os.replace(path, path.with_name(f"{path.name}.empty"))
    elif end < path.stat().st_size:
        os.truncate(path, end)


def last_logged(path: Path) -> int:
    """The last W&B step (`_step`) that a file of records holds; 0: none."""
    from wandb.proto import wandb_internal_pb2 as protocol

    for record in _last_records(path):
        for item in protocol.Record.FromString(record.payload).history.item:  # type: ignore[attr-defined]
            if "_step" in (item.key, *item.nested_key):
                return int(json.loads(item.value_json))
    return 0


def _last_records(path: Path) -> Iterator[Record]:
    """The whole records of a file, the last one first. The end of a large file is looked at before all of it."""
    size = path.stat().st_size
    start = max(0, size - TAIL_BYTES) // BLOCK_BYTES * BLOCK_BYTES
    for first in dict.fromkeys((start, 0)):
        yield from reversed(list(read_records(path, start=first)))


def read_records(path: Path, *, start: int = 0) -> Iterator[Record]:
    """The whole records that begin at or after `start`, a multiple of BLOCK_BYTES, up to the first damage."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    position, parts = (0 if start else FILE_HEADER_BYTES), None
    while position + CHUNK_HEADER.size <= len(data):
        if (left := BLOCK_BYTES - position % BLOCK_BYTES) < CHUNK_HEADER.size:
            position += left  # no chunk begins in the last bytes of a block
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        position += CHUNK_HEADER.size
        body = data[position : position + length]
        if len(body) < length or zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            return
        position += length
        if kind in (WHOLE, FIRST):
            parts = b""
        if parts is None:  # the rest of a record that began before `start`
            continue
        parts += body
        if kind in (WHOLE, LAST):
            yield Record(parts, start + position)
            parts = None
