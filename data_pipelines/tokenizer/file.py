"""tokenizer.json: opened so that a document becomes all of its tokens, and compared by what it does to a document.

A process reads one once, until it changes: every part of a start asks for its hash, its ids or its meaning, and that of
a large vocabulary has 15 MB, on each of 2,048 ranks.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

NAME = "tokenizer.json"


class OpenTokenizer(NamedTuple):
    """A tokenizer that was read from a file."""

    tokenizer: Tokenizer
    switched_off: list[str]
    """In words, what the file carried that would have lost, added or varied tokens."""
    hash: str
    """As of `file_hash`."""


def open_tokenizer(folder: Path) -> OpenTokenizer:
    """The tokenizer.json of a folder. Raises ValueError where there is none, or none that can be read.

    Whoever opens it again gets the same one, and may change nothing in it.
    """
    read = _read(folder)
    if isinstance(read.found, str):
        raise ValueError(f"{folder / NAME} is no tokenizer that this version of `tokenizers` reads ({read.found})")
    return read.found


def file_hash(folder: Path) -> str:
    """sha256 of a folder's tokenizer.json, 64 hex digits. Raises ValueError where there is none."""
    return _read(folder).hash


def same_tokenizer(folder: Path, other: Path) -> bool:
    """Whether two folders have one tokenizer: equal files, or files that differ in nothing that a document meets.

    White space, order of keys, ways of writing merges, and what OpenTokenizer switches off make no difference.
    """
    return file_hash(folder) == file_hash(other) or _meaning(folder) == _meaning(other)


def _meaning(folder: Path) -> object:
    """What the library writes of it, whichever version wrote the file."""
    return json.loads(open_tokenizer(folder).tokenizer.to_str())


class _Read(NamedTuple):
    hash: str
    found: OpenTokenizer | str
    """What it is, or why it is none."""


def _read(folder: Path) -> _Read:
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the folder of a Hugging Face tokenizer")
    status = path.stat()
    return _read_version(path.resolve(), (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(2)  # that of the data, and that of the weights that a run starts from
def _read_version(path: Path, version: tuple[int, int, int]) -> _Read:
    """version: of the file, which is another one when it differs."""
    content = path.read_bytes()
    hash_ = hashlib.sha256(content).hexdigest()
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as err:  # what the library raises has no class of its own
        return _Read(hash_, str(err))
    tokenizer.encode_special_tokens = True  # "<|end_of_text|>" written in a document is text, not an end
    return _Read(hash_, OpenTokenizer(tokenizer, _switch_off(tokenizer), hash_))


def _switch_off(tokenizer: Tokenizer) -> list[str]:
    settings = []
    if tokenizer.truncation is not None:
        settings.append(f"truncation to {tokenizer.truncation['max_length']:,} tokens")
        tokenizer.no_truncation()
    if tokenizer.padding is not None:
        settings.append("padding")
        tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        settings.append(f"dropout={tokenizer.model.dropout:g}")
        tokenizer.model.dropout = None
    return settings
