"""Is a preparation complete, and do its shards and its tokenizer belong together?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from data_pipelines.base.files import write_whole
from data_pipelines.shards.manifest import DataError, join
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.reader import OpenData, open_part
from data_pipelines.shards.source import TokenSource
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


def open_data(prepared: Prepared, tokenizer_hash: str, *, prefix: str, remedy: str) -> OpenData:
    """Opens every part of every source, once.

    Raises DataError with a line for each folder that cannot be opened, or was made by another tokenizer than that of
    `tokenizer_hash`: ids of two would mean different texts to one model. prefix: of a source's name in a message.
    """
    parts: dict[str, dict[str, TokenSource]] = {"train": {}, "held_out": {}}
    problems = []
    for name, source in prepared.sources.items():
        for part, uri in (("train", source.train), ("held_out", source.held_out)):
            if uri is None:
                continue
            try:
                parts[part][name] = open_part(source, uri)
            except DataError as error:
                problems.append(str(error))
                continue
            if (got := parts[part][name].manifest.tokenizer) != tokenizer_hash:
                problems.append(
                    f"{prefix}{name}: {uri} was made by a tokenizer with hash {got[:12]}, {prepared.tokenizer_dir} has "
                    f"{tokenizer_hash[:12]}; {remedy}"
                )
    if problems:
        raise DataError("\n".join(problems))
    return OpenData(prepared=prepared, **parts)
