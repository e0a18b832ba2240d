"""A zoo of small files, each with what it is read as, or with the words of its refusal."""

from __future__ import annotations

import bz2
import fractions
import gzip
import io
import json
import lzma
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_pipelines.documents import Document
from data_pipelines.documents.find import stored_file
from data_pipelines.documents.pieces import read_documents

LINES = b'{"text": "one"}\n\n{"text": "two"}\n'
TWO = {":1": "one", ":3": "two"}
ONE = {"": "Hello.\n"}
BOM = b"\xef\xbb\xbf"
LONG = "".join(f"line {k} of a text that does not pack into one block\n" for k in range(20_000)).encode()


def packed_twice(data: bytes, pack: Callable[[bytes], bytes] = gzip.compress, padding: bytes = b"") -> bytes:
    return pack(data[:5]) + padding + pack(data[5:]) + padding


def tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", data)
    return buffer.getvalue()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index:][1:]


READ: list[tuple[str, bytes, dict[str, str]]] = [
    ("empty.txt", b"", {"": ""}),
    ("plain.txt", b"Hello.\n", ONE),
    ("no_suffix", b"Hello.\n", ONE),
    ("code.py", b"x = 1\n", {"": "x = 1\n"}),
    ("page.html", b"<p>Hello.</p>", {"": "<p>Hello.</p>"}),
    ("bom.txt", BOM + b"Hello.\n", ONE),
    ("only_bom.txt", BOM, {"": ""}),
    ("bom_inside.txt", b"a" + BOM + b"b", {"": "a\ufeffb"}),  # a zero-width space, which is text
    ("windows.txt", b"a\r\nb\r\n", {"": "a\nb\n"}),
    ("old_mac.txt", b"a\rb\r", {"": "a\nb\n"}),
    ("breaks.txt", b"a\x0cb\x0bc\td\x1b[0m\x07\x08\x7f", {"": "a\x0cb\x0bc\td\x1b[0m\x07\x08\x7f"}),
    ("unicode.txt", "naïve 工作 \u2028 👩‍👩‍👧 \U0010ffff".encode(), {"": "naïve 工作 \u2028 👩‍👩‍👧 \U0010ffff"}),
    ("json_inside.txt", b'a\n{"text": "one"}\n', {"": 'a\n{"text": "one"}\n'}),
    ("pretty_json.txt", b'{\n"text": "one"}\n', {"": '{\n"text": "one"}\n'}),
    ("braces.txt", b"{}\n{a}", {"": "{}\n{a}"}),
    ("deep.txt", b'{"a": ' + b"[" * 100_000, {"": '{"a": ' + "[" * 100_000}),
    ("latex.tex", b"see~{\\bf 3} and ~} or $~{a}$", {"": "see~{\\bf 3} and ~} or $~{a}$"}),
    ("terminal.log", b"\x1b[1mbold\x1b(B\x1b[m", {"": "\x1b[1mbold\x1b(B\x1b[m"}),
    ("packed.txt.gz", gzip.compress(b"Hello.\n"), ONE),
    ("packed.txt.bz2", bz2.compress(b"Hello.\n"), ONE),
    ("packed.TXT.XZ", lzma.compress(b"Hello.\n"), ONE),
    ("packed_bom.txt.gz", gzip.compress(BOM + b"Hello.\n"), ONE),
    ("packed_without_saying_so.txt", gzip.compress(b"Hello.\n"), ONE),
    ("in_two_members.txt.gz", packed_twice(b"Hello.\n"), ONE),
    ("in_two_members.txt.bz2", packed_twice(b"Hello.\n", bz2.compress), ONE),
    ("in_two_members.txt.xz", packed_twice(b"Hello.\n", lzma.compress), ONE),
    ("padded.txt.gz", packed_twice(b"Hello.\n", padding=bytes(20_000)), ONE),
    ("padded.txt.bz2", packed_twice(b"Hello.\n", bz2.compress, bytes(20_000)), ONE),
    ("padded.txt.xz", packed_twice(b"Hello.\n", lzma.compress, bytes(20_000)), ONE),
    ("empty.txt.gz", gzip.compress(b""), {"": ""}),
    ("empty.txt.bz2", bz2.compress(b""), {"": ""}),
    ("lines.jsonl", LINES, TWO),
    ("lines.ndjson", LINES, TWO),
    ("lines.JSONL", LINES, TWO),
    ("lines.jsonl.gz", gzip.compress(LINES), TWO),
    ("lines.JSONL.GZ", gzip.compress(LINES), TWO),
    ("lines.ndjson.bz2", bz2.compress(LINES), TWO),
    ("lines.jsonl.xz", lzma.compress(LINES), TWO),
    ("bom.jsonl", BOM + LINES, TWO),
    ("windows.jsonl", LINES.replace(b"\n", b"\r\n"), TWO),
    ("no_newline.jsonl", b'{"text": "one"}', {":1": "one"}),
    ("empty.jsonl", b"", {}),
    ("other_fields.jsonl", b'{"n": 1, "text": "one", "x": [null, true, 2.5, {"text": 3}]}', {":1": "one"}),
    ("bigint.jsonl", b'{"text": "one", "n": ' + b"7" * 5000 + b"}", {":1": "one"}),
    ("pair.jsonl", rb'{"text": "\ud83d\ude00"}', {":1": "😀"}),
    ("line_ends.jsonl", b'{"text": "a\\r\\nb"}', {":1": "a\r\nb"}),  # what its author wrote
    ("separators.jsonl", '{"text": "a\u2028b\x85c"}'.encode(), {":1": "a\u2028b\x85c"}),  # they end no line
]


@pytest.mark.parametrize(("name", "content", "documents"), READ, ids=[name for name, *_ in READ])
def test_text_is_read_as(name: str, content: bytes, documents: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    read = list(read_documents(stored_file(str(tmp_path / name)), name))
    assert read == [Document(name + number, text) for number, text in documents.items()]


REFUSED: list[tuple[str, bytes, str]] = [
    ("latin1.txt", "Grüße".encode("latin-1"), "latin1.txt: byte 2 of the file, 0xfc, is not UTF-8 (invalid start byte"),
    ("latin1_bom.txt", BOM + b"ab\xfc", "latin1_bom.txt: byte 5 of the file, 0xfc, is not UTF-8"),
    ("latin1.txt.gz", gzip.compress(b"ab\xfc"), "latin1.txt.gz: byte 2 of its unpacked content, 0xfc, is not UTF-8"),
    ("cut_letter.txt", "Grü".encode()[:-1], "byte 2 of the file, 0xc3, is not UTF-8 (unexpected end of data)"),
    ("surrogate.txt", b"a\xed\xa0\x80", "byte 1 of the file, 0xed, is not UTF-8"),
    ("latin1.jsonl", LINES + b'{"text": "\xfc"}\n', "latin1.jsonl, line 4: byte 43 of the file, 0xfc, is not UTF-8"),
    ("utf16.txt", "Hi".encode("utf-16"), "utf16.txt looks like UTF-16, which is not read; convert it: iconv -f UTF-16"),
    ("utf16be.txt", b"\xfe\xff\0H", "looks like UTF-16"),
    ("utf32.txt", "Hi".encode("utf-32"), "looks like UTF-32"),
    ("utf16.jsonl", '{"text": 1}'.encode("utf-16"), "looks like UTF-16"),
    ("utf16_without_bom.txt", "Hi".encode("utf-16-le"), "byte 1 of the file is the control character 0x00, so"),
    ("nul.txt", b"Hello\0", "nul.txt: byte 5 of the file is the control character 0x00"),
    ("control.txt", b"Hello\x02", "byte 5 of the file is the control character 0x02"),
    ("books.zip", zipped(b"Hello"), "books.zip looks like a zip archive"),
    ("renamed_zip.txt", zipped(b"Hello"), "looks like a zip archive"),
    ("a.7z", b"7z\xbc\xaf\x27\x1c\0\4", "looks like a 7z archive"),
    ("a.pdf", b"%PDF-1.7\n%\xe2\xe3", "looks like PDF"),
    ("renamed_pdf.txt", b"%PDF-1.7\n", "looks like PDF"),
    ("a.npy", numpy_file(), "looks like NumPy"),
    ("a.rtf", b"{\\rtf1 Hello}", "looks like RTF"),
    ("a.json", b'[{"text": "one"}]', "a.json is JSON in one piece by its name (.json), which is not read; write it as"),
    ("a.JSON.gz", gzip.compress(b"{}"), "is JSON in one piece by its name (.json)"),
    ("a.csv", b"text\none\n", "a.csv is a table by its name (.csv), which is not read; convert it to JSONL"),
    ("a.tsv", b"text\none\n", "is a table by its name (.tsv)"),
    ("a.tab", b"text\none\n", "is a table by its name (.tab)"),
    ("a.geojson", b"{}", "is JSON in one piece by its name (.geojson)"),
    ("a.jsonc", b"{}", "is JSON in one piece by its name (.jsonc)"),
    ("a.jsonl.bak", LINES, "a.jsonl.bak is JSONL or not: .jsonl counts at the end of a name only; rename it"),
    ("a.ndjson.gz.1", gzip.compress(LINES), "is JSONL or not"),
    ("a.dump", BOM + b'{"text": "one"}\r\n', "a.dump looks like JSONL, its first line is a JSON object; rename it to"),
    ("lfs.txt", b"version https://git-lfs.github.com/spec/v1\noid", "looks like a pointer of Git LFS"),
    ("pdf_behind.txt", BOM + b"\n%PDF-1.7\n", "looks like PDF"),
    ("rtf_behind.txt", b"\r\n{\\rtf1 Hello}", "looks like RTF"),
    ("dict.txt", pickle.dumps({"a": 1}, 0), "looks like a pickle of Python"),
    ("list.txt", pickle.dumps(["a"], 0), "looks like a pickle of Python"),
    ("text.txt", pickle.dumps("Hello", 0), "looks like a pickle of Python"),
    ("object.txt", pickle.dumps(fractions.Fraction(1, 3), 0), "looks like a pickle of Python"),
    ("jis.txt", "ab\u65e5\u672c".encode("iso2022_jp"), "byte 2 of the file switches to ISO-2022-JP or one of its rel"),
    ("korean.txt", "\ud55c\uad6d".encode("iso2022_kr"), "is the control character 0x0e"),
    (
        "hz.txt",
        "ab\u4e2d\u6587".encode("hz"),
        "byte 2 of the file switches to HZ, not UTF-8 text; convert it: iconv -f HZ",
    ),
    ("joined.txt", BOM + b"a\n" + BOM + b"b", "byte 5 of the file begins a byte-order mark (ef bb bf) that is not its"),
    ("two_marks.txt", BOM + BOM + b"a", "byte 3 of the file begins a byte-order mark"),
    ("joined.jsonl", BOM + LINES + BOM + LINES, "joined.jsonl, line 4: byte 36 of the file begins a byte-order mark"),
    ("empty.parquet", b"", "is a table by its name (.parquet)"),
    ("not_packed.txt.gz", b"Hello.\n", "not_packed.txt.gz is gzip by its name, not by its first bytes"),
    ("nothing.jsonl.gz", b"", "is gzip by its name, not by its first bytes"),
    ("other_packer.txt.xz", gzip.compress(b"Hello"), "is xz by its name, not by its first bytes"),
    (
        "twice.txt.gz",
        gzip.compress(gzip.compress(b"Hello")),
        "twice.txt.gz looks like gzip inside of another",
    ),
    ("cut.txt.gz", gzip.compress(b"Hello.\n")[:-9], "cut.txt.gz, byte 18: damaged gzip (Compressed file ended before"),
    ("cut_far.txt.gz", gzip.compress(LONG)[:-100], "unpacked text; fetch the file again, or leave it out"),
    ("cut.txt.bz2", bz2.compress(b"Hello.\n")[:-5], "damaged bzip2 (Compressed file ended before"),
    ("cut.txt.xz", lzma.compress(b"Hello.\n")[:-5], "damaged xz (Compressed file ended before"),
    ("checksum.txt.gz", flipped(gzip.compress(b"Hello.\n"), -8), "damaged gzip (CRC check failed"),
    ("bit.txt.gz", flipped(gzip.compress(LONG, mtime=0), 2000), "damaged gzip ("),
    ("bit.txt.bz2", flipped(bz2.compress(LONG), 500), "damaged bzip2 ("),
    ("bit.txt.xz", flipped(lzma.compress(LONG), 200), "damaged xz ("),
    ("garbage_after.txt.gz", gzip.compress(b"Hello") + b"garbage", "damaged gzip (Not a gzipped file"),
    (
        "garbage_after.txt.bz2",
        bz2.compress(b"Hello") + b"garbage",
        "stream in the member that begins at byte 43)",
    ),
    ("garbage_after.txt.xz", lzma.compress(b"Hello") + b"garbage here", "damaged xz (Input format not supported by"),
    ("second_cut.txt.bz2", packed_twice(b"Hello.\n", bz2.compress)[:-5], "damaged bzip2 (Compressed file ended before"),
    ("second_cut.txt.xz", packed_twice(b"Hello.\n", lzma.compress)[:-5], "damaged xz (Compressed file ended before"),
    ("gz_after.txt.xz", lzma.compress(b"Hello") + gzip.compress(b"."), "damaged xz (Input format not supported by"),
    ("broken.jsonl", LINES + b"{\n", "broken.jsonl, line 4: not JSON (Expecting property name"),
    (
        "newline.jsonl",
        b'{"text": "a\tb"}',
        "(Invalid control character at character 12 of the line); mend or remove the line",
    ),
    (
        "controls.jsonl",
        rb'{"text": "a\u0000\u0001"}',
        r"line 1: character 1 of 'text' is the control character \u0000,",
    ),
    ("no_keys.jsonl", b"{}", "line 1: expected text under 'text', got an object without keys; set text_key"),
    (
        "keys.jsonl",
        json.dumps({f"k{k}": 1 for k in range(20_000)}).encode(),
        "got k0, k1, k2, k3, k4, k5, k6, k7, ... (20,000 in all); set text_key",
    ),
    ("two.jsonl", b'{"text": "one"} {"text": "two"}\n', "two.jsonl, line 1: not JSON (Extra data"),
    ("null.jsonl", b'{"text": null}', "line 1: expected text under 'text', got null; mend the line or remove it"),
    ("number.jsonl", b'{"text": 3}', "line 1: expected text under 'text', got number"),
    ("boolean.jsonl", b'{"text": true}', "line 1: expected text under 'text', got boolean"),
    ("list.jsonl", b'{"text": ["a"]}', "line 1: expected text under 'text', got list"),
    ("object.jsonl", b'{"text": {}}', "line 1: expected text under 'text', got object"),
    ("missing.jsonl", b'{"body": "a", "n": 1}', "line 1: expected text under 'text', got body, n; set text_key"),
    ("bare.jsonl", b'"one"\n', "line 1: expected text under 'text', got text; set text_key"),
    ("half.jsonl", b'{"text": "\\ud83d"}', "half.jsonl, line 1: character 0 of 'text' is \\ud83d, half of a surrogate"),
    ("other_half.jsonl", LINES + b'{"text": "ab\\ude00"}', "line 4: character 2 of 'text' is \\ude00, half of a"),
    ("deep.jsonl", b'{"text": "one", "x": ' + b"[" * 100_000, "line 1: JSON that is nested too deeply to be read"),
]


@pytest.mark.parametrize(("name", "content", "words"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_what_is_no_text_is_refused_with(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        list(read_documents(stored_file(str(tmp_path / name)), name))
    assert str(refusal.value).startswith(f"{tmp_path / name}")


@pytest.mark.parametrize(("pack", "size"), [(gzip.compress, 3), (bz2.compress, 4), (lzma.compress, 12)])
def test_no_flipped_bit_in_the_header_of_a_second_member_hides_it(
    pack: Callable[[bytes], bytes], size: int, tmp_path: Path
) -> None:
    """Nor of a second one that lies whole in what the first reading brought, nor of one that lies far behind."""
    path = tmp_path / "two.txt"
    for first in (pack(b"Hello."), pack(LONG)):
        for at in range(size):
            path.write_bytes(first + flipped(pack(b"World."), at))
            try:
                read = [document.text for document in read_documents(stored_file(str(path)), "two")]
            except ValueError as err:
                assert re.search(r"two\.txt, byte [0-9,]+: damaged (gzip|bzip2|xz) \(", str(err))  # noqa: PT017
            else:
                assert read[0].endswith("World.")  # such as another size of bzip2's blocks


def test_the_place_of_damage_is_a_byte_of_the_file_and_of_its_text(tmp_path: Path) -> None:
    """Documents before it are read: the error comes where the file breaks."""
    lines = "".join(json.dumps({"text": f"document {k}"}) + "\n" for k in range(50_000)).encode()
    whole = gzip.compress(lines)
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    read: list[Document] = []
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz, byte .*: damaged gzip .* bytes of unpacked text") as refusal:
        read.extend(read_documents(stored_file(str(path)), "cut"))
    at, after = (int(digits.replace(",", "")) for digits in re.findall(r"(?:byte|after) ([0-9,]+)", str(refusal.value)))
    assert at == len(whole) // 2
    assert lines[:after].count(b"\n") == len(read) > 1000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_text_on_a_store_is_read_like_local_text(pack: Callable[[bytes], bytes]) -> None:
    fsspec.filesystem("memory").pipe_file("/zoo/lines.jsonl", pack(BOM + LINES))
    read = read_documents(stored_file("memory://zoo/lines.jsonl"), "lines.jsonl")
    assert [document.text for document in read] == ["one", "two"]
