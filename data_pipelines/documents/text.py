"""The bytes of a file -> its documents.

    *.jsonl, *.ndjson    a document a line: an object that has the text in one of its fields
    any other text       one document

In any letter case, and as they are or packed by gzip, bzip2 or xz. Text is UTF-8, with or without a byte-order mark,
which is no part of it. Nothing else is taken for text: not bytes that are not UTF-8, not control characters (other than
white space, BEL, BS, ESC and DEL), not a syntax that we do not read, not a file that is something else by its first
bytes. Each of these is an error that names the file, the place in it and the remedy.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from data_pipelines.documents import Document
from data_pipelines.documents.find import StoredFile
from data_pipelines.documents.signatures import known_by_content, known_by_name
from data_pipelines.documents.unpack import PACKERS, UnpackedFile

JSONL = ("jsonl", "ndjson")

_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_NEWLINES = re.compile(r"\r\n?")

# Numbers are not used, so any type will do: int() would refuse those of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=float)
_TYPE_NAMES = {type(None): "null", bool: "boolean", float: "number", str: "text", list: "list", dict: "object"}


def read_documents(file: StoredFile, name: str, text_key: str = "text") -> Iterator[Document]:
    """The documents of one file: `name`, or `name:line` where there is one a line, counted from 1.

    Line ends come out as \\n. Raises ValueError for a file that is not text and for a line of JSONL that is broken or
    has no text under `text_key`; OSError where the store fails.
    """
    with UnpackedFile(file) as content:
        suffix = _suffix(file, content)
        if problem := known_by_content(content.head) or known_by_name(suffix):
            raise ValueError(f"{file} {problem}")
        if suffix in JSONL:
            yield from _lines(content, file, name, text_key)
        else:
            data = b"".join(content.pieces())
            yield Document(name, _NEWLINES.sub("\n", _decode(data, str(file), packed=bool(content.packer))))


def _suffix(file: StoredFile, content: UnpackedFile) -> str:
    """What the name says of the content, without .gz and the like."""
    suffixes = [suffix.removeprefix(".").lower() for suffix in PurePosixPath(file.path).suffixes]
    if suffixes and (packer := PACKERS.get(suffixes[-1])):
        if content.packer != packer:
            raise ValueError(f"{file} is {packer} by its name, not by its first bytes; fetch it again or rename it")
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _lines(content: UnpackedFile, file: StoredFile, name: str, text_key: str) -> Iterator[Document]:
    for number, (offset, line) in enumerate(content.lines(), 1):
        where = f"{file}, line {number}"
        text = _decode(line, where, offset=offset, packed=bool(content.packer))
        if text.strip():
            yield Document(f"{name}:{number}", _text(text, text_key, where))


def _decode(data: bytes, where: str, *, offset: int = 0, packed: bool = False) -> str:
    """offset: of `data` in the file's content, which may be packed: then a byte of it is no byte of the file."""
    start = len(codecs.BOM_UTF8) if offset == 0 and data.startswith(codecs.BOM_UTF8) else 0
    place = "of its unpacked content" if packed else "of the file"
    if control := _CONTROL.search(data):
        raise ValueError(
            f"{where}: byte {offset + control.start():,} {place} is the control character 0x{control[0].hex()}, so "
            "this is binary or UTF-16, not UTF-8 text; convert the file, remove the character, or leave the file out"
        )
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as err:
        at = start + err.start
        raise ValueError(
            f"{where}: byte {offset + at:,} {place}, 0x{data[at]:02x}, is not UTF-8 ({err.reason}); if the text is "
            "Windows-1252 or Latin-1, convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from err


def _text(line: str, text_key: str, where: str) -> str:
    try:
        record = _JSON.decode(line)
    except RecursionError as err:
        raise ValueError(f"{where}: JSON that is nested too deeply to be read; remove the line") from err
    except ValueError as err:
        raise ValueError(f"{where}: not JSON ({err})") from err
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected text under {text_key!r}, got {_TYPE_NAMES[type(record)]}; set text_key")
    if text_key not in record:
        raise ValueError(f"{where}: expected text under {text_key!r}, got {', '.join(record)}; set text_key")
    text = record[text_key]
    if not isinstance(text, str):
        got = _TYPE_NAMES[type(text)]
        raise ValueError(f"{where}: expected text under {text_key!r}, got {got}; mend the line or remove it")
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ValueError(
            f"{where}: character {err.start:,} of {text_key!r} is \\u{ord(text[err.start]):04x}, half of a surrogate "
            "pair, which is no text; remove it, or write the line anew from its source"
        ) from err
    return text
