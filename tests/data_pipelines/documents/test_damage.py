"""Files of the zoo, damaged at random: documents or an error with the file's name, and no crash of what reads them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import fsspec
import pytest

from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.find import stored_file
from data_pipelines.documents.pieces import read_piece, split
from tests.data_pipelines.documents.zoo import ZOO

CHECKED = ("a.jl.gz", "c4.json.gz", "a.tar.gz", "a.tgz")
"""Their packing has a checksum over the content, and no place for what is not checked but the header of gzip."""
HEADER = 10


def flip(data: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(HEADER, len(data))
    return data[:at] + bytes([data[at] ^ 1 << chosen.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, chosen: random.Random) -> bytes:
    return data[: chosen.randrange(len(data))]


def zero(data: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(HEADER, len(data))
    return data[:at] + bytes(len(data[at : at + 32])) + data[at + 32 :]


def texts_or_refusal(uri: str, options: ReadOptions) -> list[str] | str:
    try:
        parts = split({"x": stored_file(uri)}, options, 1)
        return [document.text for part in parts for document in read_piece(part, options, Tally())]
    except ValueError as error:
        return str(error)


@pytest.mark.battery
@pytest.mark.parametrize("damage", [flip, cut, zero])
def test_damaged_files_are_read_or_refused_by_name(
    damage: Callable[[bytes, random.Random], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, found, silent = random.Random(12), Counter[str](), Counter[str]()
    store = fsspec.filesystem("memory")
    for animal in ZOO:
        if not isinstance(animal.error, dict) or len(animal.content) <= HEADER:
            continue
        path = f"/damaged/{animal.name}"
        for _ in range(40):
            damaged = damage(animal.content, chosen)
            store.pipe_file(path, damaged)
            texts = texts_or_refusal(f"memory:/{path}", ReadOptions(animal.text_key))
            if isinstance(texts, str):
                assert animal.name in texts
                found["refused"] += 1
                continue
            same = texts == list(animal.error.values())
            found["the same text" if same else "other text"] += 1
            silent[animal.name] += not same and damaged != animal.content
    with capsys.disabled():
        print(f"\n{damage.__name__}: {found.total():,} damaged files, {dict(found)}")
    assert not any(silent[name] for name in CHECKED), silent
    assert found["refused"] > found.total() / 2
