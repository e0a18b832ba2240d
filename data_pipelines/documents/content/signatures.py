"""What a file is if it is not text: known by its first bytes, or by a name that stands for a syntax we do not read."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 512
"""How many of its first bytes tell what a file is."""

_ICONV = "convert it: iconv -f {} -t UTF-8 OLD > NEW"
_UNPACK = "unpack it first"
_CONVERT = "convert it to JSONL (an object with the text a line) or to plain text"

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\xfe\x00\x00", "UTF-32", _ICONV.format("UTF-32")),
    (0, b"\xff\xfe", "UTF-16", _ICONV.format("UTF-16")),
    (0, b"\xfe\xff", "UTF-16", _ICONV.format("UTF-16")),
    (0, b"\x04\x22\x4d\x18", "LZ4", f"{_UNPACK}: lz4 -d FILE"),
    (0, b"PK\x03\x04", "a zip archive (also .docx, .xlsx, .epub, .npz)", _UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"FEA1", "Feather", _CONVERT),
    (0, b"Obj\x01", "Avro", _CONVERT),
    (0, b"\x93NUMPY", "NumPy", _CONVERT),
    (0, b"\x89HDF\r\n", "HDF5", _CONVERT),
    (0, b"SQLite format 3\0", "SQLite", _CONVERT),
    (0, b"%PDF-", "PDF", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document", _CONVERT),
    (0, b"{\\rtf", "RTF", _CONVERT),
    (0, b"\x89PNG\r\n", "a picture (PNG)", "leave it out of the pattern"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", "leave it out of the pattern"),
    (0, b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
)
"""(offset, bytes that lie there, what the file is, what to do)."""

_BEHIND_SPACE = (b"%PDF-", b"{\\rtf")
"""Those that programs find behind a byte-order mark or empty lines too."""

_PICKLE = re.compile(rb"(?:\([dl]|[VS].*\n|c[\w.]+\n\w+\n)p0\n")
"""How Python's oldest pickles begin, which are printable: a dict, list, text or object that is stored as number 0."""

_SEVEN_BIT = (
    (re.compile(rb"\x1b(?:\$[@AB]|\$\([CDOPQ]|\([IJ])"), "ISO-2022-JP or one of its relatives", "ISO-2022-JP"),
    (re.compile(rb"~\{(?:[\x21-\x77][\x21-\x7e])+~\}"), "HZ", "HZ"),
)
"""(what switches to another set of characters, encoding, its name for iconv). Not ESC ( B: terminals get it too."""

_SYNTAXES = {
    **dict.fromkeys(
        ("json", "geojson", "jsonc", "ipynb"),
        ("JSON in one piece", "write it as JSONL, an object with the text a line"),
    ),
    **dict.fromkeys(("csv", "tsv", "tab"), ("a table", _CONVERT)),
    **dict.fromkeys(("avro", "orc", "npy", "npz", "pkl", "h5"), ("a table", _CONVERT)),
    **dict.fromkeys(("pdf", "doc", "docx", "odt", "rtf", "xls", "xlsx", "epub"), ("a document", _CONVERT)),
    **dict.fromkeys(("lz4", "zip", "7z", "rar"), ("an archive", _UNPACK)),
}
"""Suffix -> (what it stands for, what to do)."""

_KNOWN_BY_CONTENT = {
    **dict.fromkeys(("parquet", "arrow", "feather"), "a table"),
    **dict.fromkeys(("tar", "tgz", "tbz2", "txz", "tzst"), "a tar archive"),
}
"""Suffix of what is read where the content is of that kind -> what it stands for."""


def known_by_content(head: bytes) -> str | None:
    """ "looks like ...; what to do", unless these may be the first bytes of UTF-8 text.

    head: the first HEAD_BYTES bytes of a file once it is unpacked, or all.
    """
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    for offset, signature, what, remedy in _SIGNATURES:
        if head.startswith(signature, offset) or (signature in _BEHIND_SPACE and text.startswith(signature)):
            return f"looks like {what}, which is not read; {remedy}"
    if _PICKLE.match(head):
        return f"looks like a pickle of Python, which is not read; {_CONVERT}"
    return f"looks like {packed_as(head)} inside of another; unpack it once" if packed_as(head) else None


def known_by_name(suffix: str) -> str | None:
    """suffix: in lower case, without the dot. Returns what it stands for and what to do, if that is no text."""
    if what := _KNOWN_BY_CONTENT.get(suffix):
        return (
            f"is {what} by its name (.{suffix}), not by its first bytes; fetch it again, or rename it if it is text as "
            "it stands"
        )
    if suffix not in _SYNTAXES:
        return None
    what, remedy = _SYNTAXES[suffix]
    return f"is {what} by its name (.{suffix}), which is not read; {remedy}, or rename it if it is text as it stands"


def seven_bit_encoding(data: bytes) -> tuple[int, str] | None:
    """(byte at which another set of characters begins, encoding and what to do), for text that is ASCII by its bytes
    and is not by its meaning."""
    if not data.isascii() or (b"\x1b" not in data and b"~{" not in data):
        return None
    for switch, encoding, iconv in _SEVEN_BIT:
        if found := switch.search(data):
            return found.start(), f"{encoding}, not UTF-8 text; {_ICONV.format(iconv)}"
    return None


def packed_as(head: bytes) -> str | None:
    """ "gzip", "bzip2", "xz" or "Zstandard", if that is what begins so."""
    return next((packer for packer, begin in _PACKED.items() if begin.match(head)), None)


_PACKED = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "Zstandard": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to be skipped
}
