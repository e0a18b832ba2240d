"""What a file is if it is not text: known by its first bytes, or by a name that stands for a syntax we do not read."""

from __future__ import annotations

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
    (0, b"\x28\xb5\x2f\xfd", "Zstandard", f"{_UNPACK}: zstd -d FILE"),
    (0, b"\x04\x22\x4d\x18", "LZ4", f"{_UNPACK}: lz4 -d FILE"),
    (0, b"PK\x03\x04", "a zip archive (also .docx, .xlsx, .epub, .npz)", _UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", f"{_UNPACK}: tar -xf FILE"),
    (0, b"PAR1", "Parquet", _CONVERT),
    (0, b"ARROW1\0\0", "Arrow", _CONVERT),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", _CONVERT),
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
)
"""(offset, bytes that lie there, what the file is, what to do)."""

_SYNTAXES = {
    **dict.fromkeys(("json", "ipynb"), ("JSON in one piece", "write it as JSONL, an object with the text a line")),
    **dict.fromkeys(("csv", "tsv"), ("a table", _CONVERT)),
    **dict.fromkeys(("parquet", "arrow", "feather", "avro", "orc", "npy", "npz", "pkl", "h5"), ("a table", _CONVERT)),
    **dict.fromkeys(("pdf", "doc", "docx", "odt", "rtf", "xls", "xlsx", "epub"), ("a document", _CONVERT)),
    **dict.fromkeys(("zst", "lz4", "zip", "7z", "rar", "tar", "tgz", "tbz2", "txz"), ("an archive", _UNPACK)),
}
"""Suffix -> (what it stands for, what to do)."""


def known_by_content(head: bytes) -> str | None:
    """ "looks like ...; what to do", unless these may be the first bytes of UTF-8 text.

    head: the first HEAD_BYTES bytes of a file once it is unpacked, or all.
    """
    for offset, signature, what, remedy in _SIGNATURES:
        if head.startswith(signature, offset):
            return f"looks like {what}, which is not read; {remedy}"
    return f"looks like {packed_as(head)} inside of another; unpack it once" if packed_as(head) else None


def known_by_name(suffix: str) -> str | None:
    """suffix: in lower case, without the dot. Returns what it stands for and what to do, if that is no text."""
    if suffix not in _SYNTAXES:
        return None
    what, remedy = _SYNTAXES[suffix]
    return f"is {what} by its name (.{suffix}), which is not read; {remedy}, or rename it if it is text as it stands"


def packed_as(head: bytes) -> str | None:
    """ "gzip", "bzip2" or "xz", if that is what begins so."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if re.match(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", head):
        return "bzip2"
    return "xz" if head.startswith(b"\xfd7zXZ\0") else None
