"""Data sets by name, as Hugging Face `datasets` streams them: `datasets://NAME?name=CONFIG&split=train&revision=REF`.

It finds out which files belong to a configuration and a split, on the Hub or in a local folder (`datasets:///folder`).
Each of them is read by itself: a document a row, NAME:ROW. Where its files are known, reading them by address is the
shorter way, and they can be cut finer: hf://datasets/NAME/**/*.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode

from data_pipelines.documents.content.decode import Policy
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.stored import Piece, StoredFile
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.kinds.jsonl import text_of_record

PREFIX = "datasets://"
_OPTIONS = ("name", "split", "revision", "data_dir")


class Datasets:
    """What `datasets` can reach, with as much of a file system as is asked of one: path = NAME?OPTIONS#FILE."""

    def unstrip_protocol(self, path: str) -> str:
        return PREFIX + path

    def ukey(self, path: str) -> str:
        """Changes with the data set: its commit on the Hub, the names, sizes and times of its files in a folder."""
        return _streamed(path.partition("#")[0])[1]

    def size(self, path: str) -> int:
        """Not known before it is read."""
        return 0

    def open(self, path: str, mode: str) -> NoReturn:
        raise ValueError(f"{PREFIX}{path} has rows and no bytes")


def find_shards(uri: str, *, setting: str) -> dict[str, StoredFile]:
    """Name -> file of a data set. Raises ValueError, naming the `setting`, where there is no such data set."""
    name, _, query = uri.removeprefix(PREFIX).partition("?")
    options = {"split": "train", **dict(parse_qsl(query, keep_blank_values=True))}
    if unknown := options.keys() - {*_OPTIONS}:
        raise ValueError(
            f"{setting}={uri!r}: {', '.join(sorted(unknown))} is none of its options, {', '.join(_OPTIONS)}"
        )
    path = f"{name}?{urlencode(sorted(options.items()), safe='/')}"
    try:
        stream, _ = _streamed(path)
    except Exception as error:  # datasets and huggingface_hub have dozens of their own
        raise ValueError(
            f"{setting}={uri!r}: `datasets` cannot open it ({type(error).__name__}: {error}); check its name, name=, "
            "split= and the network"
        ) from error
    fs, split = Datasets(), options["split"]
    return {f"{split}/{shard:05}": StoredFile(fs, f"{path}#{shard}") for shard in range(stream.num_shards)}


def is_shard(file: StoredFile) -> bool:
    """Whether it is a file of a data set by name."""
    return isinstance(file.fs, Datasets)


def read_shard(piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """Raises UndecodableError, ValueError for a row without the column and for what `datasets` cannot read."""
    path, _, shard = piece.file.path.partition("#")
    stream, policy = _streamed(path)[0], Policy(options, tally)
    if options.text_key in (stream.column_names or ()):
        stream = stream.select_columns([options.text_key])
    rows = iter(stream.shard(num_shards=stream.num_shards, index=int(shard)))
    number = 0
    while (row := _next(rows, f"{piece.file}, after row {number}")) is not None:
        number += 1
        where = f"{piece.file}, row {number}"
        text = policy.attempt(lambda row=row, where=where: text_of_record(row, where, policy))
        if text is not None:
            yield Document(f"{piece.name}:{number}", text)


def _next(rows: Iterator[dict[str, Any]], where: str) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except OSError:
        raise  # the network's
    except Exception as error:
        raise ValueError(
            f"{where}: `datasets` cannot read on ({type(error).__name__}: {error}); read the files themselves: "
            "hf://datasets/NAME/**"
        ) from error


@cache  # opening one asks the Hub several times
def _streamed(path: str) -> tuple[Any, str]:
    """The rows of NAME?OPTIONS, an IterableDataset, and what changes with them."""
    import datasets  # takes a second

    name, _, query = path.partition("?")
    options: dict[str, Any] = dict(parse_qsl(query))
    split = options.pop("split")
    builder = datasets.load_dataset_builder(name, **options)
    return builder.as_streaming_dataset(split), f"{builder.hash} {builder.config_id} {datasets.__version__}"
