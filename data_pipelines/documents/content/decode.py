"""Bytes and what JSON or a table holds -> text, or the reason why they are none.

Text is UTF-8, with or without a byte-order mark at the start of a file, which is no part of it. Nothing else is taken
for text: not bytes that are not UTF-8, not control characters (other than white space, BEL, BS, ESC and DEL), not
encodings that hide in ASCII, not a second byte-order mark. Each of these names the place and the remedy.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from data_pipelines.documents.content.signatures import seven_bit_encoding
from data_pipelines.documents.content.tally import ReadOptions, Tally, UndecodableError

_CONTROLS = bytes([*range(0x07), *range(0x0E, 0x1B), *range(0x1C, 0x20)])
_CONTROL = re.compile(b"[" + re.escape(_CONTROLS) + b"]")
_NO_CHARACTER = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f\ud800-\udfff]")
_NEWLINES = re.compile(r"\r\n?")

LOST_SHARE = 0.25
"""Of the characters of a document that may be replaced. Latin-1 in place of UTF-8 costs a few in a hundred of western
text, another alphabet (Windows-1251, Shift JIS) most of it."""

T = TypeVar("T")


class Policy(NamedTuple):
    """What becomes of what cannot be decoded, and where that is written down."""

    options: ReadOptions
    tally: Tally

    def attempt(self, decode: Callable[[], T]) -> T | None:
        """What `decode` gives; None where its document is left out. Raises its UndecodableError where none may be."""
        try:
            return decode()
        except UndecodableError as error:
            if self.options.undecodable != "skip":
                mended = ", undecodable=replace mends it" if error.mendable else ""
                raise UndecodableError(f"{error}; undecodable=skip leaves it out{mended}") from error
            self.tally.leave_out(error)
            return None

    def mend(self, why: str, cause: Exception | None = None) -> None:
        """Notes that U+FFFD takes the place of what cannot be decoded. Raises UndecodableError where it may not."""
        if self.options.undecodable != "replace":
            raise UndecodableError(why, mendable=True) from cause
        self.tally.mend(why)


class Where(NamedTuple):
    """Where bytes lie, for people."""

    document: str
    """The file, and the line or member."""
    offset: int = 0
    """Of the bytes in ..."""
    of: str = "of the file"

    def byte(self, index: int) -> str:
        return f"{self.document}: byte {self.offset + index:,} {self.of}"


def decode_file(data: bytes, where: Where, policy: Policy) -> str:
    """The text of a whole file, with line ends as \\n. Raises UndecodableError."""
    return _NEWLINES.sub("\n", decode_lines(data, where, policy))


def decode_lines(data: bytes, where: Where, policy: Policy) -> str:
    """The text of one or more whole lines of a file. Raises UndecodableError."""
    start = len(codecs.BOM_UTF8) if where.offset == 0 and data.startswith(codecs.BOM_UTF8) else 0
    if has_controls(data) and (control := _CONTROL.search(data)):
        raise UndecodableError(
            f"{where.byte(control.start())} is the control character 0x{control[0].hex()}, so "
            "this is binary or UTF-16, not UTF-8 text; convert the file, remove the character, or leave the file out"
        )
    if encoded := seven_bit_encoding(data):
        raise UndecodableError(f"{where.byte(encoded[0])} switches to {encoded[1]}")
    if (mark := _next_mark(data, start)) is not None:
        raise UndecodableError(
            f"{where.byte(mark)} begins a byte-order mark (ef bb bf) "
            "that is not its first one, as where files were joined; remove it: sed 's/\\xef\\xbb\\xbf//g' OLD > NEW"
        )
    if start:
        data, where = data[start:], where._replace(offset=start)
    return decode_value(data, where, policy)


def decode_value(data: bytes, where: Where, policy: Policy) -> str:
    """UTF-8 bytes as they are. Raises UndecodableError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        policy.mend(
            f"{where.byte(err.start)}, 0x{data[err.start]:02x}, is not UTF-8 ({err.reason}); if the text is "
            "Windows-1252 or Latin-1, convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
            err,
        )
        return _mended(data.decode("utf-8", "replace"), where.document)


def checked_text(text: str, where: str, text_key: str, policy: Policy) -> str:
    """`text`, which was found under `text_key`, where all of it is characters. Raises UndecodableError."""
    if not (found := _NO_CHARACTER.search(text)):
        return text
    what, code = f"{where}: character {found.start():,} of {text_key!r} is ", ord(found[0])
    remedy = "which is no text; remove it, or write the line anew from its source"
    if code < 0x20:
        policy.mend(f"{what}the control character \\u{code:04x}, {remedy}")
    else:
        policy.mend(f"{what}\\u{code:04x}, half of a surrogate pair, {remedy}")
    return _mended(_NO_CHARACTER.sub("\ufffd", text), where)


def has_controls(data: bytes) -> bool:
    """Whether a control character is among UTF-8 bytes that is no text, found several times as fast as by a search."""
    return len(data.translate(None, _CONTROLS)) < len(data)


def _mended(text: str, where: str) -> str:
    """`text`, unless so much of it stands for something else that it would teach nothing. Raises UndecodableError."""
    lost = text.count("\ufffd")
    if lost > 8 + len(text) * LOST_SHARE:
        raise UndecodableError(
            f"{where}: {lost:,} of {len(text):,} characters cannot be decoded, too many to be replaced, so this is in "
            "another encoding or no text; convert it with iconv, or leave it out"
        )
    return text


def _next_mark(data: bytes, start: int) -> int | None:
    """Byte of a mark that begins a line; elsewhere in a line it is a zero-width space, which is text."""
    if data.startswith(codecs.BOM_UTF8, start):
        return start
    newline = data.find(b"\n" + codecs.BOM_UTF8)
    return None if newline < 0 else newline + 1
