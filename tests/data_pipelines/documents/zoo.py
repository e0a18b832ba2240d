"""Small files of every kind of source, sound and broken, each with what it is read as or the words of its refusal."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

LINES = b'{"text": "one"}\n\n{"text": "two"}\n'
TWO = {":1": "one", ":3": "two"}
BOM = b"\xef\xbb\xbf"


class Left(NamedTuple):
    """Documents, and how many others were left out."""

    documents: dict[str, str]
    left_out: int


class Mended(NamedTuple):
    """Documents, and in how many of them something was replaced."""

    documents: dict[str, str]
    replaced: int


Outcome = dict[str, str] | Left | Mended | str
"""Documents (what follows the file's name in theirs -> text), or words of the refusal."""


@dataclass(frozen=True, eq=False)
class Animal:
    """A file, and what it is with each value of `undecodable`; None: the same as with `error`."""

    name: str
    content: bytes
    error: Outcome
    skip: Outcome | None = None
    replace: Outcome | None = None
    text_key: str = "text"

    def outcome(self, undecodable: str) -> Outcome:
        return {"error": self.error, "skip": self.skip, "replace": self.replace}[undecodable] or self.error


def parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def arrow(table: pa.Table, new: Callable[..., pa.ipc.RecordBatchStreamWriter] = pa.ipc.new_file) -> bytes:
    """Two rows a record batch."""
    buffer = io.BytesIO()
    with new(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return buffer.getvalue()


def tar(members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT, links: Iterable[str] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "0.txt"
            archive.addfile(member)
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index:][1:]


def raw(texts: list[bytes | None]) -> pa.Table:
    """A table that says of any bytes that they are text."""
    return pa.table({"text": pa.array(texts, pa.binary()).view(pa.string())})


zst = zstandard.compress
CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(LINES * 50)
TABLE = pa.table({"text": ["one", "zwei ü", "", "four"], "n": [1, 2, 3, 4]})
ROWS = {":1": "one", ":2": "zwei ü", ":3": "", ":4": "four"}
BATCHES = {":1.1": "one", ":1.2": "zwei ü", ":2.1": "", ":2.2": "four"}
NESTED = pa.table({"meta": [{"body": {"text": "one"}, "n": 1}, {"body": {"text": "two"}, "n": 2}], "text": [1, 2]})
DOTTED = pa.table({"meta.text": ["one"], "meta": [{"text": "inner"}]})
DICTIONARY = pa.table({"text": pa.array(["one", "two", "one"]).dictionary_encode()})
TWICE = pa.table([pa.array(["one"]), pa.array(["two"])], names=["text", "text"])
HALF_NULL = pa.table({"meta": [{"text": "one"}, None, {"text": None}]})
BROKEN = raw([b"one", b"Gr\xc3\xbc\xc3\x9fe aus M\xfcnchen", b"a\0 text of a table", None])
FIRST = {":1": "one"}
STREAM = arrow(TABLE, pa.ipc.new_stream)
SAMPLES = {
    "0.txt": b"one\r\n",
    "0.json": b'{"url": "http://x"}',  # describes 0.txt
    "d/1.json": b'{"text": "two",\n "n": 1}',
    "d/2.jsonl": LINES,
    "n" * 150 + ".txt": b"long",
    "3.TXT": BOM + b"three",
}
MEMBERS = {
    ":0.txt": "one\n",
    ":d/1.json": "two",
    ":d/2.jsonl:1": "one",
    ":d/2.jsonl:3": "two",
    ":" + "n" * 150 + ".txt": "long",
    ":3.TXT": "three",
}
TAR = tar(SAMPLES)
NOISE = random.Random(12).randbytes(3000)
BAD_LINES = (
    b'{"text": "one"}\n{"text": "M\xfcnchen im Winter"}\n{"text": "half \\ud83d of a pair, \\u0000"}\n{"text": \n'
    b'{"text": null}\n{"text": "last"}\n'
)

ZOO: list[Animal] = [
    # Zstandard, and JSONL under other names
    Animal("a.jsonl.zst", zst(LINES), TWO),
    Animal("frames.jsonl.zst", zst(LINES[:5]) + zst(LINES[5:]), TWO),
    Animal("skippable.jsonl.zst", b"\x50\x2a\x4d\x18\4\0\0\0pzst" + zst(LINES), TWO),
    Animal("unnamed.jsonl", zst(LINES), TWO),
    Animal("plain.txt.zst", zst(b"Hello.\n"), {"": "Hello.\n"}),
    Animal("long.jsonl.zst", zst(LINES * 40_000)[:-3], "damaged Zstandard (Compressed file ended before"),
    Animal("cut.jsonl.zst", zst(LINES)[:-3], "damaged Zstandard (Compressed file ended before the end-of-stream"),
    Animal("second_cut.jsonl.zst", zst(LINES) + zst(LINES)[:-3], "in the member that begins at byte"),
    Animal("garbage.jsonl.zst", zst(LINES) + b"garbage", "damaged Zstandard (zstd decompressor error: Unknown frame"),
    Animal(
        "zeroed.jsonl.zst", zst(LINES) + bytes(40) + zst(LINES), "damaged Zstandard (zstd decompressor error: Unknown"
    ),
    Animal("sum.jsonl.zst", flipped(CHECKED, -1 % len(CHECKED)), "Restored data doesn't match checksum"),
    Animal("not.jsonl.zst", LINES, "is Zstandard by its name, not by its first bytes"),
    Animal("cut.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "damaged gzip (Compressed file ended before"),
    Animal("cut.jsonl.bz2", bz2.compress(LINES)[:-5], "damaged bzip2 (Compressed file ended before"),
    Animal("cut.jsonl.xz", lzma.compress(LINES)[:-5], "damaged xz (Compressed file ended before"),
    Animal("a.jsonlines", LINES, TWO),
    Animal("a.jl.gz", gzip.compress(LINES, mtime=0), TWO),
    Animal("c4.json.gz", gzip.compress(LINES, mtime=0), TWO),
    Animal("part-00000", LINES, TWO),
    Animal("long.json", b'{"text": "' + b"a" * 600 + b'"}\n', {":1": "a" * 600}),
    Animal("pretty.json", b'{\n  "text": "one"\n}\n', "is JSON in one piece by its name (.json)"),
    Animal("list.json", b'[{"text": "one"}]', "is JSON in one piece by its name (.json)"),
    Animal("nested.jsonl", b'{"a": {"b": "one"}}', FIRST, text_key="a.b"),
    Animal("dotted.jsonl", b'{"a": {"b": "x"}, "a.b": "one"}', FIRST, text_key="a.b"),
    Animal("not_nested.jsonl", b'{"a": "x"}', "line 1: expected text under 'a.b', got a; set text_key", text_key="a.b"),
    Animal(
        "half_null.jsonl",
        b'{"a": {"b": "one"}}\n{"a": null}\n',
        "line 2: expected text under 'a.b', got null",
        Left(FIRST, 1),
        text_key="a.b",
    ),
    # JSONL with lines that are broken; a file that lacks the field has the wrong text_key
    Animal("crlf.jsonl", BOM + LINES.replace(b"\n", b"\r\n"), TWO),
    Animal(
        "bad.jsonl",
        BAD_LINES,
        "bad.jsonl, line 2: byte 27 of the file, 0xfc, is not UTF-8",
        Left({":1": "one", ":6": "last"}, 4),
        "bad.jsonl, line 4: not JSON",
    ),
    Animal(
        "mended.jsonl",
        b"\n".join(BAD_LINES.split(b"\n")[:3]),
        "is not UTF-8",
        Left(FIRST, 2),
        Mended({**FIRST, ":2": "M\ufffdnchen im Winter", ":3": "half \ufffd of a pair, \ufffd"}, 2),
    ),
    Animal("not_json.jsonl", LINES + b"three\n", "line 4: not JSON (Expecting value", Left(TWO, 1)),
    Animal("no_key.jsonl", LINES + b'{"body": "x"}', "line 4: expected text under 'text', got body; set text_key"),
    Animal("list.jsonl", b'["one"]\n' + LINES, "line 1: expected text", Left({":2": "one", ":4": "two"}, 1)),
    Animal("deep.jsonl", b'{"text": "x", "y": ' + b"[" * 99_999, "nested too deeply", Left({}, 1)),
    Animal(
        "joined.jsonl",
        LINES + BOM + LINES,
        "line 4: byte 33 of the file begins a byte-order mark",
        Left({**TWO, ":6": "two"}, 1),
    ),
    # plain text
    Animal(
        "latin1.txt",
        "Grüße aus dem schönen München".encode("latin-1"),
        "byte 2 of the file, 0xfc, is not UTF-8",
        Left({}, 1),
        Mended({"": "Gr\ufffd\ufffde aus dem sch\ufffdnen M\ufffdnchen"}, 1),
    ),
    Animal(
        "cyrillic.txt",
        ("Привет, мир. " * 9).encode("cp1251"),
        "byte 0 of the file, 0xcf, is not UTF-8",
        Left({}, 1),
        "of 117 characters cannot be decoded, too many to be replaced",
    ),
    Animal("sjis.txt", ("日本語の文章です。" * 9).encode("shift_jis"), "is not UTF-8", Left({}, 1), "too many to be"),
    Animal("nul.txt", b"Hello\0", "byte 5 of the file is the control character 0x00", Left({}, 1)),
    Animal("utf16.txt", "Hi".encode("utf-16"), "utf16.txt looks like UTF-16, which is not read; convert it: iconv"),
    Animal("utf16_without_mark.txt", "Hi".encode("utf-16-le"), "is the control character 0x00, so", Left({}, 1)),
    Animal("noise.bin", NOISE, "is the control character", Left({}, 1)),
    Animal("noise", NOISE, "is the control character", Left({}, 1)),
    Animal("ones.bin", b"\xff" * 600, "byte 0 of the file, 0xff, is not UTF-8", Left({}, 1), "too many to be replaced"),
    Animal("zeros.bin", bytes(600), "byte 0 of the file is the control character 0x00", Left({}, 1)),
    Animal("empty.txt", b"", {"": ""}),
    Animal("crlf.txt", BOM + b"a\r\nb", {"": "a\nb"}),
    # Parquet
    Animal("a.parquet", parquet(TABLE), ROWS),
    Animal("groups.parquet", parquet(TABLE, row_group_size=1), ROWS),
    Animal("zstd.parquet", parquet(TABLE, compression="zstd"), ROWS),
    Animal("parquet_named.txt", parquet(TABLE), ROWS),
    Animal("parquet_named.jsonl", parquet(TABLE), ROWS),
    Animal("no_rows.parquet", parquet(TABLE.slice(0, 0)), {}),
    Animal("nested.parquet", parquet(NESTED), {":1": "one", ":2": "two"}, text_key="meta.body.text"),
    Animal("dotted.parquet", parquet(DOTTED), FIRST, text_key="meta.text"),
    Animal(
        "null.parquet",
        parquet(HALF_NULL),
        "row 2: expected text under 'meta.text', got null; remove the row",
        Left(FIRST, 2),
        text_key="meta.text",
    ),
    Animal("dictionary.parquet", parquet(DICTIONARY), {":1": "one", ":2": "two", ":3": "one"}),
    Animal(
        "no_column.parquet", parquet(TABLE), "expected text under 'body', got text, n; set text_key", text_key="body"
    ),
    Animal("numbers.parquet", parquet(TABLE), "expected text under 'n', got int64; set text_key", text_key="n"),
    Animal("struct.parquet", parquet(NESTED), "expected text under 'meta', got struct<", text_key="meta"),
    Animal(
        "bad.parquet",
        parquet(BROKEN.slice(0, 3)),
        "row 2: byte 13 of 'text', 0xfc, is not UTF-8",
        Left(FIRST, 2),
        Mended({**FIRST, ":2": "Grüße aus M\ufffdnchen", ":3": "a\ufffd text of a table"}, 2),
    ),
    Animal("twice.parquet", parquet(TWICE), "has several columns 'text'; write it anew with one"),
    Animal("twice.arrow", arrow(TWICE), "has several columns 'text'; write it anew with one"),
    Animal("cut.parquet", parquet(TABLE)[:-20], "damaged Parquet (Parquet magic bytes not found in footer"),
    Animal("half.parquet", parquet(TABLE)[:60] + parquet(TABLE)[-300:], "damaged Parquet ("),
    Animal(
        "sum.parquet",
        flipped(parquet(TABLE, write_page_checksum=True, use_dictionary=False, compression="none"), 60),
        "damaged Parquet (",
    ),
    Animal(
        "a.parquet.gz", gzip.compress(parquet(TABLE), mtime=0), "looks like Parquet inside of gzip, which cannot be"
    ),
    Animal("empty.parquet", b"", "is a table by its name (.parquet), not by its first bytes"),
    Animal("text.parquet", b"Hello", "is a table by its name (.parquet), not by its first bytes"),
    # Arrow
    Animal("a.arrow", arrow(TABLE), BATCHES),
    Animal("a.feather", arrow(TABLE), BATCHES),
    Animal("stream.arrow", STREAM, ROWS),
    Animal("stream.arrow.zst", zst(STREAM), ROWS),
    Animal("nested.arrow", arrow(NESTED), {":1.1": "one", ":1.2": "two"}, text_key="meta.body.text"),
    Animal("dictionary.arrow", arrow(DICTIONARY), {":1.1": "one", ":1.2": "two", ":2.1": "one"}),
    Animal("binary.arrow", arrow(TABLE.cast(pa.schema({"text": pa.large_binary(), "n": pa.int64()}))), BATCHES),
    Animal("view.arrow", arrow(pa.table({"text": pa.array(["one"], pa.string_view())})), {":1.1": "one"}),
    Animal(
        "bad.arrow",
        arrow(BROKEN),
        "row 1.2: byte 13 of 'text', 0xfc, is not UTF-8",
        Left({":1.1": "one"}, 3),
        "row 2.2: expected text under 'text', got null",
    ),
    Animal("no_column.arrow", STREAM, "expected text under 'body', got text, n; set text_key", text_key="body"),
    Animal("cut.arrow", arrow(TABLE)[:-8], "damaged Arrow (Not an Arrow file)"),
    Animal("cut_between.arrow", STREAM[:-8], "the stream of Arrow is cut, it has no end mark"),
    Animal("cut_inside.arrow", STREAM[:-30], "damaged Arrow (Expected to be able to read"),
    Animal("joined.arrow", STREAM + STREAM, "something follows the end of the stream of Arrow"),
    Animal("a.arrow.gz", gzip.compress(arrow(TABLE), mtime=0), "looks like Arrow inside of gzip, which cannot be read"),
    # tars
    Animal("a.tar", TAR, MEMBERS),
    Animal("gnu.tar", tar(SAMPLES, tarfile.GNU_FORMAT), MEMBERS),
    Animal("a.tar.gz", gzip.compress(TAR, mtime=0), MEMBERS),
    Animal("a.tgz", gzip.compress(TAR, mtime=0), MEMBERS),
    Animal("a.tar.zst", zst(TAR), MEMBERS),
    Animal("tar_named.txt", TAR, MEMBERS),
    Animal("empty.tar", tar({}), {}),
    Animal(
        "picture.tar",
        tar({"0.txt": b"one", "0.jpg": b"\xff\xd8\xff"}),
        "member 0.jpg is no text by its name; text",
        Left({":0.txt": "one"}, 1),
    ),
    Animal(
        "pdf.tar",
        tar({"0.txt": b"one", "1.txt": b"%PDF-1.7"}),
        "member 1.txt looks like PDF",
        Left({":0.txt": "one"}, 1),
    ),
    Animal(
        "linked.tar",
        tar({"0.txt": b"one"}, links=["1.txt"]),
        "member 1.txt is a link or a device, no file",
        Left({":0.txt": "one"}, 1),
    ),
    Animal(
        "latin1.tar",
        tar({"0.txt": b"one", "1.txt": b"M\xfcnchen"}),
        "member 1.txt: byte 1 of the member, 0xfc, is not",
        Left({":0.txt": "one"}, 1),
        Mended({":0.txt": "one", ":1.txt": "M\ufffdnchen"}, 1),
    ),
    Animal(
        "bad_line.tar",
        tar({"0.jsonl": LINES + b"x"}),
        "member 0.jsonl, line 4: not JSON",
        Left({":0.jsonl:1": "one", ":0.jsonl:3": "two"}, 1),
    ),
    Animal("no_key.tar", tar({"0.json": b'{"body": 1}'}), "member 0.json: expected text under 'text', got body; set"),
    Animal("cut.tar", TAR[:1100], "byte 1,100 of the file: the tar is cut, it has no end mark"),
    Animal("cut_inside.tar", TAR[:700], "damaged tar (unexpected end of data)"),
    Animal("cut_between.tar", TAR[:1024], "byte 1,024 of the file: the tar is cut, it has no end mark"),
    Animal("header.tar", flipped(TAR, 1024 + 20), "byte 1,024 of the file: what follows is neither a member nor the"),
    Animal("joined.tar", TAR + TAR, "what follows is neither a member nor the end of the tar"),
    Animal("cut.tar.gz", gzip.compress(TAR, mtime=0)[:-20], "damaged gzip (Compressed file ended before"),
    Animal("not.tar", b"Hello", "is a tar archive by its name (.tar), not by its first bytes"),
    # what is not read
    Animal("a.zip", zipped({"a.txt": b"one", "b.txt": b"two"}), "looks like a zip archive"),
    Animal("a.jsonl.lz4", b"\x04\x22\x4d\x18" + NOISE, "looks like LZ4"),
    Animal("a.pdf", b"%PDF-1.7\n%\xe2\xe3", "looks like PDF"),
    Animal("pdf_named.jsonl", b"%PDF-1.7\n%\xe2\xe3", "looks like PDF"),
    Animal("a.csv", b"text\none\n", "a.csv is a table by its name (.csv), which is not read; convert it to JSONL"),
    Animal("a.avro", b"Obj\x01" + NOISE, "looks like Avro"),
    Animal("a.png", b"\x89PNG\r\n\x1a\n" + NOISE, "looks like a picture (PNG)"),
    Animal("encrypted.parquet", b"PARE" + NOISE, "looks like encrypted Parquet"),
    Animal("v1.feather", b"FEA1" + NOISE, "looks like Feather"),
]


def huge_line(num_bytes: int) -> bytes:
    """JSONL whose second line is of about so many bytes."""
    return LINES + json.dumps({"text": "x" * num_bytes}).encode() + b"\n" + LINES
