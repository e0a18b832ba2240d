"""Is a preparation complete, and do its shards and its tokenizer belong together?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from data_pipelines.base.files import write_whole
from data_pipelines.shards.manifest import DataError, join
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.reader import open_part
from data_pipelines.shards.storage import locate

READY = "prepared.json"
"""Written last: source name -> the parts that it has."""

Parts = dict[str, list[Literal["train", "held_out"]]]


def prepared_anew(root: str | Path) -> str:
    """The remedy for whatever is wrong with the preparation in `root`."""
    return f"delete {root}, the data are prepared again then"


def save_parts(root: Path, parts: Parts) -> None:
    """Says that the preparation in `root` is complete. Raises OSError."""
    write_whole(root / READY, json.dumps(parts))


def load_parts(root: str) -> Parts:
    """Raises DataError where the list is damaged, OSError where it cannot be read."""
    fs, path = locate(join(root, READY))
    try:
        return TypeAdapter(Parts).validate_json(fs.cat_file(path))
    except ValidationError as error:
        raise DataError(f"{join(root, READY)} is damaged; {prepared_anew(root)}") from error


def shard_problems(prepared: Prepared, tokenizer_hash: str, *, prefix: str, remedy: str) -> Iterator[str]:
    """A line for each folder that cannot be opened, or was made by another tokenizer than that of `tokenizer_hash`.

    prefix: of a source's name in a message. One tokenizer has to have made all: ids of two would mean different texts
    to one model.
    """
    for name, source in prepared.sources.items():
        for uri in filter(None, (source.train, source.held_out)):
            try:
                got = open_part(source, uri).manifest.tokenizer
            except DataError as error:
                yield str(error)
                continue
            if got != tokenizer_hash:
                yield (
                    f"{prefix}{name}: {uri} was made by a tokenizer with hash {got[:12]}, {prepared.tokenizer_dir} has "
                    f"{tokenizer_hash[:12]}; {remedy}"
                )
