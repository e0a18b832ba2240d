"""Every animal of the zoo is read as documented with each value of `undecodable`, whole and in pieces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from data_pipelines.documents import Document, pieces
from data_pipelines.documents.content.tally import ReadOptions, Tally, Undecodable
from data_pipelines.documents.find import find_files, stored_file
from data_pipelines.documents.pieces import read_documents, read_piece, split
from tests.data_pipelines.documents.zoo import LINES, ZOO, Animal, Left, Mended, huge_line

VALUES = get_args(Undecodable)
NAMES = [animal.name for animal in ZOO]


def test_the_zoo_has_no_two_animals_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(set(NAMES)) == len(ZOO) >= 40
    kept = sum(not isinstance(animal.outcome(value), str) for animal in ZOO for value in VALUES)
    with capsys.disabled():
        print(
            f"\nzoo: {len(ZOO)} files x {len(VALUES)} values of undecodable: {kept} read, "
            f"{len(ZOO) * len(VALUES) - kept} refused"
        )


@pytest.mark.parametrize("undecodable", VALUES)
@pytest.mark.parametrize("animal", ZOO, ids=NAMES)
def test_each_is_what_it_is_documented_to_be(animal: Animal, undecodable: Undecodable, tmp_path: Path) -> None:
    path = tmp_path / animal.name
    path.write_bytes(animal.content)
    outcome, tally = animal.outcome(undecodable), Tally()
    documents = read_documents(stored_file(str(path)), animal.name, ReadOptions(animal.text_key, undecodable), tally)
    if isinstance(outcome, str):
        with pytest.raises(ValueError, match=re.escape(outcome)) as refusal:
            list(documents)
        assert str(refusal.value).startswith(str(path))
        return
    expected = outcome if isinstance(outcome, dict) else outcome.documents
    assert list(documents) == [Document(animal.name + name, text) for name, text in expected.items()]
    assert tally.documents == len(expected)
    assert tally.empty == sum(not text for text in expected.values())
    assert tally.undecodable == (outcome.left_out if isinstance(outcome, Left) else 0)
    assert tally.replaced == (outcome.replaced if isinstance(outcome, Mended) else 0)
    assert len(tally.places) >= tally.undecodable + tally.replaced
    assert all(str(path) in place for place in tally.places)


READ = {animal: animal.error for animal in ZOO if isinstance(animal.error, dict)}


@pytest.mark.parametrize("piece_bytes", [1, 40, 2**30])
def test_no_document_depends_on_how_its_file_was_cut(
    piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "BY_BYTE_FROM", 1)
    for animal, texts in READ.items():
        (tmp_path / animal.name).write_bytes(animal.content)
        file = stored_file(str(tmp_path / animal.name))
        options, tally = ReadOptions(animal.text_key), Tally()
        parts = split({animal.name: file}, options, piece_bytes)
        read = [document for part in parts for document in read_piece(part, options, tally)]
        whole = [document.text for document in read_documents(file, animal.name, options)]
        assert [document.text for document in read] == whole, animal.name
        named = [Document(animal.name + name, text) for name, text in texts.items()]
        if animal.content.lstrip(b"\xef\xbb\xbf").startswith(b"{"):  # JSONL, by byte
            offsets = [int(document.name.removeprefix(f"{animal.name}@")) for document in read]
            assert [json.loads(animal.content[at:].lstrip(b"\xef\xbb\xbf").split(b"\n")[0]) for at in offsets]
            named = [Document(f"{animal.name}@{at}", text) for at, text in zip(offsets, whole, strict=True)]
        assert read == named, animal.name
        assert tally.documents == len(whole)


def test_what_can_be_read_from_its_middle_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BY_BYTE_FROM", 1)
    counts = {}
    for animal in READ:
        (tmp_path / animal.name).write_bytes(animal.content)
        parts = split({"x": stored_file(str(tmp_path / animal.name))}, ReadOptions(), 16)
        counts[animal.name] = len(parts)
    assert counts["groups.parquet"] == 4  # of one row each
    assert counts["a.arrow"] == 2  # record batches
    assert counts["crlf.jsonl"] == 3  # 41 bytes
    assert counts["a.parquet"] == counts["a.tar"] == counts["stream.arrow"] == counts["a.jsonl.zst"] == 1


def test_a_long_jsonl_file_is_named_by_byte_and_a_short_one_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the pieces: another machine with other workers gives the same names."""
    monkeypatch.setattr(pieces, "BY_BYTE_FROM", 40)
    (tmp_path / "long.jsonl").write_bytes(LINES * 2)
    (tmp_path / "short.jsonl").write_bytes(LINES)
    files = find_files(f"{tmp_path}/*.jsonl", setting="glob")
    for piece_bytes in (3, 2**30):
        parts = split(files, ReadOptions(), piece_bytes)
        names = [document.name for part in parts for document in read_piece(part, ReadOptions(), Tally())]
        assert names == [*(f"long.jsonl@{at}" for at in (0, 17, 33, 50)), "short.jsonl:1", "short.jsonl:3"]


def test_a_bad_line_of_a_long_file_is_named_by_its_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BY_BYTE_FROM", 1)
    path = tmp_path / "long.jsonl"
    path.write_bytes(LINES + b"three\n" + LINES)
    _, second, _ = split({"long.jsonl": stored_file(str(path))}, ReadOptions(), 32)
    with pytest.raises(ValueError, match=r"long\.jsonl, line at byte 33: not JSON \(Expecting value at character 1 of"):
        list(read_piece(second, ReadOptions(), Tally()))


def test_kinds_may_be_mixed_under_one_pattern(tmp_path: Path) -> None:
    for animal in READ:
        if animal.text_key == "text":
            (tmp_path / animal.name).write_bytes(animal.content)
    files = find_files(f"{tmp_path}/*", setting="glob")
    read = {
        document.name
        for part in split(files, ReadOptions(), 2**20)
        for document in read_piece(part, ReadOptions(), Tally())
    }
    assert read == {a.name + name for a, texts in READ.items() if a.text_key == "text" for name in texts}


def test_all_files_that_are_of_no_kind_are_named_before_anything_is_read(tmp_path: Path) -> None:
    for animal in ZOO:
        (tmp_path / animal.name).write_bytes(animal.content)
    files = find_files(f"{tmp_path}/*", setting="glob")
    with pytest.raises(ValueError, match="a\\.avro looks like Avro") as refusal:
        split(files, ReadOptions(), 2**20)
    lines = str(refusal.value).splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("and ")


def test_a_line_of_100_megabytes_is_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BY_BYTE_FROM", 1)
    path = tmp_path / "huge.jsonl"
    path.write_bytes(huge_line(100_000_000))
    tally = Tally()
    parts = split({"huge.jsonl": stored_file(str(path))}, ReadOptions(), 30_000_000)
    sizes = [[len(document.text) for document in read_piece(part, ReadOptions(), tally)] for part in parts]
    assert sizes == [[3, 3, 100_000_000], [], [], [3, 3]]
    assert tally.over_long == 1


def test_tallies_of_pieces_add_up() -> None:
    total = Tally()
    for number in range(20):
        part = Tally()
        part.add("")
        part.mend(f"place {number}")
        part.add("mended")
        part.leave_out(f"other {number}")
        total += part
    assert (total.documents, total.empty, total.replaced, total.undecodable) == (40, 20, 20, 20)
    report = total.report()
    assert report[0] == "40 documents, 20 of them empty, 20 with replaced characters, 20 left out as undecodable"
    assert report[1:3] == ["  replaced: place 0", "  left out: other 0"]
    assert report[-1] == "  ... and 30 more"
    assert len(report) == 12
