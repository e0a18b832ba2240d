"""tokenizer.json: opened so that a document becomes all of its tokens, and compared by what it does to a document."""

from __future__ import annotations

import hashlib
import json
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
    """The tokenizer.json of a folder. Raises ValueError where there is none, or none that can be read."""
    content = _read(folder)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as err:  # what the library raises has no class of its own
        raise ValueError(f"{folder / NAME} is no tokenizer that this version of `tokenizers` reads ({err})") from err
    return OpenTokenizer(tokenizer, _switch_off(tokenizer), _hash(content))


def file_hash(folder: Path) -> str:
    """sha256 of a folder's tokenizer.json, 64 hex digits. Raises ValueError where there is none."""
    return _hash(_read(folder))


def same_tokenizer(folder: Path, other: Path) -> bool:
    """Whether two folders have one tokenizer: equal files, or files that differ in nothing that a document meets.

    White space, order of keys, ways of writing merges, and what OpenTokenizer switches off make no difference.
    """
    return file_hash(folder) == file_hash(other) or _meaning(folder) == _meaning(other)


def _meaning(folder: Path) -> object:
    """What the library writes of it, whichever version wrote the file."""
    return json.loads(open_tokenizer(folder).tokenizer.to_str())


def _read(folder: Path) -> bytes:
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the folder of a Hugging Face tokenizer")
    return path.read_bytes()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
