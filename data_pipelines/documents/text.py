"""The bytes of a file -> its documents.

    *.jsonl, *.ndjson    a document a line: an object that has the text in one of its fields
    any other text       one document

In any letter case, and as they are or packed by gzip, bzip2 or xz. Text is UTF-8, with or without a byte-order mark,
which is no part of it. Nothing else is taken for text: not bytes that are not UTF-8, not control characters (other than
white space, BEL, BS, ESC and DEL), not encodings that hide in ASCII, not a second byte-order mark, not a syntax that we
do not read, not a file that is something else by its first bytes. Each of these is an error that names the file, the
place in it and the remedy.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath

from data_pipelines.documents import Document
from data_pipelines.documents.find import StoredFile
from data_pipelines.documents.signatures import known_by_content, known_by_name, seven_bit_encoding
from data_pipelines.documents.unpack import PACKERS, UnpackedFile

JSONL = ("jsonl", "ndjson")

_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_CONTROL_IN_TEXT = re.compile(_CONTROL.pattern.decode())
_NEWLINES = re.compile(r"\r\n?")

# Numbers are not used, so any type will do: int() would refuse those of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=float)
_TYPE_NAMES = {type(None): "null", bool: "boolean", float: "number", str: "text", list: "list", dict: "object"}


def read_documents(file: StoredFile, name: str, text_key: str = "text") -> Iterator[Document]:
    """The documents of one file: `name`, or `name:line` where there is one a line, counted from 1.

    Line ends of a text come out as \\n; a text in JSONL is what its line says. Raises ValueError for a file that is not
    text and for a line of JSONL that is broken or has no text under `text_key`; OSError where the store fails.
    """
    with UnpackedFile(file) as content:
        *before, suffix = _suffixes(file, content)
        if problem := known_by_content(content.head) or known_by_name(suffix):
            raise ValueError(f"{file} {problem}")
        if {*before} & {*JSONL} and suffix not in JSONL:
            raise ValueError(
                f"{file} is JSONL or not: .jsonl counts at the end of a name only; rename it, or leave it out"
            )
        if suffix in JSONL:
            yield from _lines(content, file, name, text_key)
        else:
            data = b"".join(content.pieces())
            if _begins_with_json(data):
                raise ValueError(
                    f"{file} looks like JSONL, its first line is a JSON object; rename it to .jsonl, or make it the "
                    "text of a line of JSONL if it is text as it stands"
                )
            yield Document(name, _NEWLINES.sub("\n", _decode(data, str(file), packed=bool(content.packer))))


def _suffixes(file: StoredFile, content: UnpackedFile) -> list[str]:
    """What the name says of the content, without .gz and the like; "" where it says nothing."""
    suffixes = ["", *(suffix.removeprefix(".").lower() for suffix in PurePosixPath(file.path).suffixes)]
    if packer := PACKERS.get(suffixes[-1]):
        if content.packer != packer:
            raise ValueError(f"{file} is {packer} by its name, not by its first bytes; fetch it again or rename it")
        suffixes.pop()
    return suffixes


def _begins_with_json(data: bytes) -> bool:
    line = data.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0]
    try:
        return line.startswith(b"{") and bool(_JSON.decode(line.decode()))
    except (ValueError, RecursionError):
        return False


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
    if encoded := seven_bit_encoding(data):
        raise ValueError(f"{where}: byte {offset + encoded[0]:,} {place} switches to {encoded[1]}")
    if (mark := _next_mark(data, start)) is not None:
        raise ValueError(
            f"{where}: byte {offset + mark:,} {place} begins a byte-order mark (ef bb bf) "
            "that is not its first one, as where files were joined; remove it: sed 's/\\xef\\xbb\\xbf//g' OLD > NEW"
        )
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as err:
        at = start + err.start
        raise ValueError(
            f"{where}: byte {offset + at:,} {place}, 0x{data[at]:02x}, is not UTF-8 ({err.reason}); if the text is "
            "Windows-1252 or Latin-1, convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
        ) from err


def _next_mark(data: bytes, start: int) -> int | None:
    """Byte of a mark that begins a line; elsewhere in a line it is a zero-width space, which is text."""
    if data.startswith(codecs.BOM_UTF8, start):
        return start
    newline = data.find(b"\n" + codecs.BOM_UTF8)
    return None if newline < 0 else newline + 1


def _text(line: str, text_key: str, where: str) -> str:
    try:
        record = _JSON.decode(line)
    except RecursionError as err:
        raise ValueError(f"{where}: JSON that is nested too deeply to be read; remove the line") from err
    except json.JSONDecodeError as err:
        raise ValueError(
            f"{where}: not JSON ({err.msg.removesuffix(' at')} at character {err.pos + 1:,} of the line); mend "
            "or remove the line; each object stands on a line of its own"
        ) from err
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected text under {text_key!r}, got {_TYPE_NAMES[type(record)]}; set text_key")
    if text_key not in record:
        raise ValueError(f"{where}: expected text under {text_key!r}, got {_some(record)}; set text_key")
    text = record[text_key]
    if not isinstance(text, str):
        got = _TYPE_NAMES[type(text)]
        raise ValueError(f"{where}: expected text under {text_key!r}, got {got}; mend the line or remove it")
    if control := _CONTROL_IN_TEXT.search(text):
        raise ValueError(
            f"{where}: character {control.start():,} of {text_key!r} is the control character "
            f"\\u{ord(control[0]):04x}, which is no text; remove it, or write the line anew from its source"
        )
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ValueError(
            f"{where}: character {err.start:,} of {text_key!r} is \\u{ord(text[err.start]):04x}, half of a surrogate "
            "pair, which is no text; remove it, or write the line anew from its source"
        ) from err
    return text


def _some(record: dict[str, object]) -> str:
    """The keys of an object, as many as a person reads."""
    keys = [key if len(key) <= 40 else f"{key[:40]}..." for key in islice(record, 8)]
    if not keys:
        return "an object without keys"
    return ", ".join(keys) + (f", ... ({len(record):,} in all)" if len(record) > len(keys) else "")
