"""JSONL: a document a line, an object that has the text in one of its fields.

Known by its name (.jsonl, .ndjson, .jsonlines, .jl), and by its first line where the name says .json or nothing. In any
other file a first line of JSON is an error: it may be either.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from data_pipelines.documents.content.decode import Policy, Where, checked_text, decode_lines
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.kind import Cut, Kind, Look
from data_pipelines.documents.content.signatures import HEAD_BYTES
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.tally import ReadOptions, Tally, UndecodableError
from data_pipelines.documents.content.unpack import UnpackedFile

SUFFIXES = ("jsonl", "ndjson", "jsonlines", "jl")

# Numbers are not used, so any type will do: int() would refuse those of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=float)
_TYPE_NAMES = {type(None): "null", bool: "boolean", float: "number", str: "text", list: "list", dict: "object"}
_BEGUN = re.compile(rb'\{[ \t]*"')


def is_jsonl(look: Look) -> bool:
    """Raises ValueError for a name that says JSONL in its middle."""
    if look.suffix in SUFFIXES:
        return True
    if {*look.suffixes} & {*SUFFIXES}:
        raise ValueError(
            "is JSONL or not: .jsonl counts at the end of a name only; rename it, or leave it out of the pattern"
        )
    return look.suffix in ("json", "") and (begins_with_object(look.head) or _begins_long_object(look.head))


def begins_with_object(data: bytes) -> bool:
    """Whether the first line is an object of JSON with a key in it."""
    line = data.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0]
    try:
        return line.startswith(b"{") and bool(_JSON.decode(line.decode()))
    except (ValueError, RecursionError):
        return False


def _begins_long_object(head: bytes) -> bool:
    """Whether the first line begins like an object, and ends behind the head."""
    return len(head) == HEAD_BYTES and b"\n" not in head and bool(_BEGUN.match(head.removeprefix(codecs.BOM_UTF8)))


def read_jsonl(content: UnpackedFile, piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """A text is what its line says. Raises UndecodableError for a line that is broken or has no text, ValueError for
    one that lacks the field: text_key is wrong then."""
    policy = Policy(options, tally)
    for number, (offset, line) in enumerate(content.lines(piece.start, piece.stop), 1):
        place = f"line at byte {offset:,}" if piece.by_byte else f"line {number}"
        where = Where(f"{piece.file}, {place}", offset, content.place)
        text = policy.attempt(lambda line=line, where=where: text_of_line(line, where, policy))
        if text is not None:
            yield Document(f"{piece.name}@{offset}" if piece.by_byte else f"{piece.name}:{number}", text)


def text_of_line(line: bytes, where: Where, policy: Policy) -> str | None:
    """None for an empty line."""
    text = decode_lines(line, where, policy)
    if not text or text.isspace():
        return None
    is_checked = "\\u" not in text  # without escapes there is nothing in a value that is not in its line
    return text_of_record(_record(text, where.document), where.document, policy, is_checked=is_checked)


def text_of_record(record: Any, where: str, policy: Policy, *, is_checked: bool = False) -> str:
    """The text of what was JSON. is_checked: whether all of it is known to be characters."""
    text_key = policy.options.text_key
    if not isinstance(record, dict):
        raise UndecodableError(
            f"{where}: expected text under {text_key!r}, got {_TYPE_NAMES[type(record)]}; set text_key"
        )
    text: Any = record
    for key in [text_key] if text_key in record else text_key.split("."):
        if text is None:
            break
        if not isinstance(text, dict) or key not in text:
            raise ValueError(f"{where}: expected text under {text_key!r}, got {_some(record)}; set text_key")
        text = text[key]
    if not isinstance(text, str):
        got = _TYPE_NAMES[type(text)]
        raise UndecodableError(f"{where}: expected text under {text_key!r}, got {got}; mend the line or remove it")
    return text if is_checked else checked_text(text, where, text_key, policy)


def _record(line: str, where: str) -> Any:
    try:
        return _JSON.decode(line)
    except RecursionError as err:
        raise UndecodableError(f"{where}: JSON that is nested too deeply to be read; remove the line") from err
    except json.JSONDecodeError as err:
        raise UndecodableError(
            f"{where}: not JSON ({err.msg.removesuffix(' at')} at character {err.pos + 1:,} of the line); mend "
            "or remove the line; each object stands on a line of its own"
        ) from err


def _some(record: dict[str, object]) -> str:
    """The keys of an object, as many as a person reads."""
    keys = [key if len(key) <= 40 else f"{key[:40]}..." for key in islice(record, 8)]
    if not keys:
        return "an object without keys"
    return ", ".join(keys) + (f", ... ({len(record):,} in all)" if len(record) > len(keys) else "")


def cut_jsonl(content: UnpackedFile, piece_bytes: int) -> list[Cut]:
    """start, stop: bytes; a line belongs to the piece in which it begins."""
    size = content.file.num_bytes
    return [(start, min(start + piece_bytes, size)) for start in range(0, size, piece_bytes)]


JSONL = Kind("JSONL", is_jsonl, read_jsonl, cut_jsonl)
