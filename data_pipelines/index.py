"""Make a manifest for shards of tokens that others wrote, so that a run trains on them where they lie.

    python -m data_pipelines.index s3://bucket/web --tokenizer DIR
    python -m data_pipelines.index /data/web --tokenizer DIR --out indices/web     where the folder may not be written

Read are NAME.ds + NAME.ds.index (datatrove), PREFIX.bin + PREFIX.idx (Megatron-LM), NAME.npy (OLMo, raw ids) and
NAME.parquet with a column of lists, input_ids. Every token is read once: its hash is kept, the largest id compared with
the tokenizer, and every document must end with the end-of-text token (--any-end where yours do not). Tokens are not
copied; the ends of documents and the hashes, some 1 % of their size, lie beside manifest.json.

To use the result: `data=shards data.tokenizer=DIR data.sources.web.train=URI`, or the folder that --out names.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import hashlib
import io
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, get_args

import numpy as np

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, ConfigError, RunError, answers_errors
from data_pipelines.base.files import room_in
from data_pipelines.base.progress import progress_bar
from data_pipelines.base.workers import run_each
from data_pipelines.formats import FORMATS
from data_pipelines.formats.foreign import Foreign, Hints
from data_pipelines.shards.manifest import (
    ENDS,
    HASHES,
    TOKENS,
    FileRecord,
    Manifest,
    ShardRecord,
    TokenType,
    TreeRecord,
    join,
)
from data_pipelines.shards.parquet_range import ParquetRange
from data_pipelines.shards.shard import PIECE_BYTES, RangeFile
from data_pipelines.shards.storage import absolute, locate
from data_pipelines.shards.tree import BLOCK_BYTES, TreeWriter
from data_pipelines.shards.writer import HashingWriter
from data_pipelines.tokenizer.encoder import TextEncoder


class Settings(NamedTuple):
    """What one process needs to know of a folder."""

    uri: str
    out: str
    format: str
    hints: Hints
    any_end: bool


def index(
    uri: str,
    tokenizer: str,
    *,
    out: str | None = None,
    format: str | None = None,
    dtype: TokenType | None = None,
    any_end: bool = False,
    workers: int = 1,
) -> Manifest:
    """Writes the manifest of the shards in the folder `uri` to `out`. Raises ValueError with file and place for what
    makes no sense, RunError if a process is killed, OSError for a store."""
    encoder = TextEncoder(tokenizer)
    out = out or uri
    if Manifest.exists(out):
        raise ValueError(
            f"{out} has a manifest already; verify it (python -m data_pipelines.verify), or delete it first"
        )
    hints = Hints(eos_id=encoder.eos_id, vocab_size=encoder.vocab_size, dtype=dtype)
    names = names_in(uri)
    format, found = find(uri, names, hints, format)
    if len(kinds := {shard.dtype for shard in found}) > 1:
        raise ValueError(
            f"{uri}: ids of types {', '.join(sorted(kinds))}; put each into a folder, as a source of its own"
        )
    settings = Settings(absolute(uri), absolute(out), format, hints, any_end)
    fs, folder = locate(out)
    fs.makedirs(folder, exist_ok=True)
    records: dict[str, ShardRecord] = {}
    total = sum(shard.num_tokens for shard in found) * np.dtype(found[0].dtype).itemsize
    with progress_bar(total=total, desc="index", unit="B", unit_scale=True) as bar:

        def done(_: str, record: ShardRecord) -> None:
            records[record.name] = record
            bar.update(record.tokens * np.dtype(found[0].dtype).itemsize)

        jobs = {join(uri, shard.tokens_in): (shard.name, _beginning(f"{shard.name}.", names)) for shard in found}
        run_each(partial(index_shard, settings=settings), jobs, done, workers=workers)
    shards = tuple(records[shard.name] for shard in found)
    manifest = Manifest(version=3, dtype=found[0].dtype, eos_id=encoder.eos_id, tokenizer=encoder.hash, shards=shards)
    manifest.save(out)
    return manifest


def names_in(uri: str) -> list[str]:
    """What lies in the folder `uri`, sorted. Raises ValueError where it is none."""
    fs, folder = locate(uri)
    if not fs.isdir(folder):
        raise ValueError(f"{uri} is no folder; name the one that the shards lie in")
    return sorted(path.rstrip("/").rpartition("/")[2] for path in fs.ls(folder, detail=False))


def find(uri: str, names: list[str], hints: Hints, format: str | None) -> tuple[str, list[Foreign]]:
    """(format, its shards among the files `names` of the folder `uri`). Raises ValueError where there are none, or of
    several formats."""
    fs, folder = locate(uri)
    formats = {name: FORMATS[name](fs, folder, names, hints) for name in ([format] if format else FORMATS)}
    found = {name: shards for name, shards in formats.items() if shards}
    if len(found) != 1:
        what = (
            f"shards of several formats ({', '.join(found)}); choose one by --format"
            if found
            else (f"no shards of {format or 'any format that is read: ' + ', '.join(FORMATS)}")
        )
        raise ValueError(f"{uri} has {what}")
    return next(iter(found.items()))


def index_shard(job: tuple[str, list[str]], *, settings: Settings) -> ShardRecord:
    """Reads a shard from one end to the other; writes the ends of its documents, where they are not there, and its tree
    of hashes. job: its name, and its files in the folder."""
    name, files = job
    fs, folder = locate(settings.uri)
    (shard,) = (one for one in FORMATS[settings.format](fs, folder, files, settings.hints) if one.name == name)
    uri, dtype = join(settings.uri, shard.tokens_in), np.dtype(shard.dtype).newbyteorder("<")
    num_bytes = shard.num_tokens * dtype.itemsize
    tokens = ParquetRange(uri, dtype, shard.num_tokens, shard.groups) if shard.groups else RangeFile(uri, num_bytes)
    fs, folder = locate(settings.out)
    keeps_ends = settings.format == "datatrove" and settings.out == settings.uri
    with ExitStack() as stack:
        stack.enter_context(room_in(settings.out))
        hashes = HashingWriter(stack.enter_context(fs.open(join(folder, name + HASHES), "wb")), None)
        kept = io.BytesIO() if keeps_ends else fs.open(join(folder, name + ENDS), "wb")
        ends = HashingWriter(stack.enter_context(kept), None)
        tree, sha256, largest, documents = TreeWriter(hashes.write), hashlib.sha256(), 0, 0
        for data, ends_D in _documents(shard, tokens, dtype.itemsize):
            sha256.update(data)
            ids = np.frombuffer(data, dtype)
            largest = max(largest, int(ids.max()))
            first = ends_D.first
            _check(ids, ends_D, shard, uri, settings)
            start = 0
            for end in ends_D.ends.tolist():
                stop = (end - first) * dtype.itemsize
                encoded = int(end).to_bytes(8, "little")
                tree.add(data[start:stop], encoded)
                ends.write(encoded)
                documents, start = documents + 1, stop
        root = tree.close()
    physical = _sha256(RangeFile(uri, locate(uri)[0].size(locate(uri)[1]))) if shard.groups else None
    record = physical or FileRecord(bytes=num_bytes, sha256=sha256.hexdigest())
    return ShardRecord(
        name=name,
        tokens=shard.num_tokens,
        documents=documents,
        max_token_id=largest,
        files={TOKENS: record, ENDS: ends.record(), HASHES: hashes.record()},
        tree=TreeRecord(block_bytes=BLOCK_BYTES, root=root),
        tokens_in=shard.tokens_in if settings.out == settings.uri else uri,
        groups=shard.groups,
    )


def _beginning(prefix: str, names: list[str]) -> list[str]:
    """Those of the sorted `names` that begin so: a folder may have tens of thousands."""
    return names[bisect_left(names, prefix) : bisect_left(names, prefix + "\U0010ffff")]


class _Ends(NamedTuple):
    first: int
    """The token that the piece begins with."""
    ends: np.ndarray
    """Of the documents in it, the last of which is the end of the piece."""


def _documents(shard: Foreign, tokens: RangeFile | ParquetRange, itemsize: int) -> Iterator[tuple[bytes, _Ends]]:
    """The tokens of whole documents, about PIECE_BYTES at a time, with where the documents end."""
    first, most = 0, max(1, PIECE_BYTES // itemsize)
    for ends_D in shard.ends():
        while len(ends_D):
            count = max(1, int(np.searchsorted(ends_D, first + most, "right")))
            stop = int(ends_D[count - 1])
            yield tokens.read(first * itemsize, stop * itemsize), _Ends(first, ends_D[:count])
            first, ends_D = stop, ends_D[count:]


def _check(ids: np.ndarray, piece: _Ends, shard: Foreign, uri: str, settings: Settings) -> None:
    """Raises ValueError for an id beyond the vocabulary and for a document without an end."""
    if len(wrong := np.flatnonzero(ids >= settings.hints.vocab_size)):
        at = int(wrong[0])
        raise ValueError(
            f"{uri}, token {piece.first + at:,} (byte {(piece.first + at) * ids.itemsize:,}): id {ids[at]:,} is beyond "
            f"the {settings.hints.vocab_size:,} ids of the tokenizer: another tokenizer, --dtype, or bytes"
        )
    last = ids[piece.ends - piece.first - 1]
    if not settings.any_end and len(wrong := np.flatnonzero(last != settings.hints.eos_id)):
        end = int(piece.ends[wrong[0]])
        if end == shard.num_tokens and settings.format == "olmo":  # cut there by its writer
            return
        raise ValueError(
            f"{uri}, token {end - 1:,}: a document ends with id {last[wrong[0]]:,}, not with the end-of-text token "
            f"({settings.hints.eos_id}) of the tokenizer; give --any-end if yours have none"
        )


def _sha256(file: RangeFile) -> FileRecord:
    sha256, size = hashlib.sha256(), 0
    for piece in file.pieces():
        sha256.update(piece)
        size += len(piece)
    return FileRecord(bytes=size, sha256=sha256.hexdigest())


@answers_errors({ConfigError: CONFIG_EXIT, ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT, RunError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.index", description=__doc__)
    parser.add_argument("uri", metavar="URI", help="folder of the shards, path or fsspec URI")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder of the tokenizer that made the ids")
    parser.add_argument("--out", metavar="URI", help="folder for the manifest (default: that of the shards)")
    parser.add_argument("--format", choices=list(FORMATS), help="default: the one that is there")
    parser.add_argument("--dtype", choices=get_args(TokenType), help="of ids in files that do not say it")
    parser.add_argument("--any-end", action="store_true", help="documents need not end with the end-of-text token")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    args = parser.parse_args(arguments)
    manifest = index(
        args.uri,
        args.tokenizer,
        out=args.out,
        format=args.format,
        dtype=args.dtype,
        any_end=args.any_end,
        workers=max(1, args.workers),
    )
    print(f"{args.out or args.uri}: {manifest.num_tokens:,} tokens in {manifest.num_documents:,} documents")
    return 0


if __name__ == "__main__":
    run_command(main)
