from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.shards.datatrove import Source
from data_pipelines.shards.manifest import DataError, Manifest
from data_pipelines.shards.writer import HashingWriter, ShardWriter, token_dtype
from data_pipelines.verify import main as verify
from tests.data_pipelines.conftest import MakeShards, make_version_1, random_documents

DOCUMENTS = [[5, 6, 1], [7, 1], [8, 9, 10, 1]]


def flip_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_the_files_are_the_datatrove_layout(make_shards: MakeShards):
    folder = Path(make_shards("s", DOCUMENTS))
    assert np.fromfile(folder / "00000.ds", "<u2").tolist() == [5, 6, 1, 7, 1, 8, 9, 10, 1]
    assert np.fromfile(folder / "00000.ds.index", "<u8").tolist() == [3, 5, 9]
    assert (folder / "00000.ds.names").read_text() == "s-0-0\ns-0-1\ns-0-2\n"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000.ds", "00000.ds.hashes", "00000.ds.index", "00000.ds.names", "manifest.json",
    ]  # fmt: skip


def test_the_manifest_counts_and_hashes_what_was_written(make_shards: MakeShards):
    uri = make_shards("s", DOCUMENTS)
    manifest = Manifest.load(uri)
    assert (manifest.num_tokens, manifest.num_documents, manifest.max_token_id) == (9, 3, 10)
    assert manifest.shards[0].files[".ds"].sha256 == hashlib.sha256(Path(uri, "00000.ds").read_bytes()).hexdigest()


def test_large_vocabularies_take_four_bytes(tmp_path: Path):
    assert [token_dtype(size) for size in (8192, 2**16, 2**16 + 1, 200_192)] == ["uint16", "uint16", "uint32", "uint32"]
    with ShardWriter(str(tmp_path), "00000", "uint32") as writer:
        writer.add("d", [200_000, 1])
    assert (tmp_path / "00000.ds").read_bytes() == bytes([0x40, 0x0D, 3, 0, 1, 0, 0, 0])


def test_an_id_that_does_not_fit_the_width_is_refused(tmp_path: Path):
    with pytest.raises(OverflowError), ShardWriter(str(tmp_path), "00000", "uint16") as writer:
        writer.add("d", [70_000])


def test_block_hashes_do_not_depend_on_how_bytes_arrive(tmp_path: Path):
    data = np.random.default_rng(0).bytes(1000)
    records = []
    for step in (1000, 7, 64, 1):
        with open(tmp_path / "file", "wb") as file:
            writer = HashingWriter(file, block_bytes=64)
            for start in range(0, 1000, step):
                writer.write(data[start : start + step])
        records.append(writer.record())
    assert all(record == records[0] for record in records)
    assert len(records[0].blocks) == 16


@pytest.mark.parametrize("block_bytes", [2, 6, 64, 4096])
@pytest.mark.parametrize("made", ["here", "in a store", "by version 1"])
def test_ranges_are_read_across_shards_from_any_store(make_shards: MakeShards, made: str, block_bytes: int):
    shards = [random_documents(300, seed=1), [[4] * 3], random_documents(40, seed=2)]
    uri = make_shards("s", *shards, uri="memory://shards" if made == "in a store" else None, block_bytes=block_bytes)
    source = Source(make_version_1(uri, block_bytes) if made == "by version 1" else uri)
    flat = np.array([token for shard in shards for document in shard for token in document])
    ends = np.cumsum([len(document) for shard in shards for document in shard])
    assert source.num_tokens == len(flat) == 343
    for start in range(0, 343, 7):
        for stop in (start + 1, start + 20, 343):
            if stop <= 343:
                assert source.tokens(start, stop).tolist() == flat[start:stop].tolist()
                inside = ends[(start < ends) & (ends < stop)]
                assert source.document_ends(start, stop).tolist() == inside.tolist()


def test_windows_make_every_token_a_target_once(make_shards: MakeShards):
    source = Source(make_shards("s", random_documents(101, seed=0)))
    targets = [source.window(k, 10)[1:] for k in range(source.num_windows(10))]
    assert np.concatenate(targets).tolist() == source.tokens(1, 101).tolist()
    assert [Source(make_shards(f"n{n}", [[4] * n])).num_windows(10) for n in (10, 11, 20, 21)] == [0, 1, 1, 2]


@pytest.mark.parametrize("made", [str, make_version_1])
def test_a_token_is_traced_to_its_document(make_shards: MakeShards, made: Callable[[str], str]):
    source = Source(made(make_shards("s", DOCUMENTS, [[4, 1]], block_bytes=4)))
    assert [source.place(token).name for token in (0, 2, 3, 5, 8, 9)] == [
        "s-0-0", "s-0-0", "s-0-1", "s-0-2", "s-0-2", "s-1-0",
    ]  # fmt: skip
    assert source.position(10).endswith("00001.ds, byte 2")


@pytest.mark.parametrize("made", [str, make_version_1])
def test_a_flipped_bit_is_named_by_file_and_offset_at_first_touch(make_shards: MakeShards, made: Callable[[str], str]):
    uri = made(make_shards("s", random_documents(300, seed=1)))
    flip_bit(Path(uri, "00000.ds"), 200)
    source = Source(uri)
    source.tokens(0, 90)  # other blocks are fine
    with pytest.raises(DataError, match=r"00000\.ds: bytes 192 to 256 differ from what the manifest recorded"):
        source.tokens(90, 120)


@pytest.mark.parametrize(
    ("made", "suffix"),
    [
        *((str, suffix) for suffix in (".ds", ".ds.index", ".ds.names", ".ds.hashes")),
        *((make_version_1, suffix) for suffix in (".ds", ".ds.index", ".ds.names")),
    ],
)
def test_every_flipped_bit_in_every_file_is_found(
    make_shards: MakeShards, capsys: pytest.CaptureFixture[str], made: Callable[[str], str], suffix: str
):
    uri = made(
        make_shards("s", random_documents(400, seed=1), block_bytes=4)
    )  # 200 records: two pages, and their hashes
    path = Path(uri, "00000" + suffix)
    for offset in range(0, path.stat().st_size, 131):
        flip_bit(path, offset)
        assert verify([uri]) == 1
        flip_bit(path, offset)
        error, *others = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert error.startswith(f"error: {path}: bytes ")
        assert not others
    assert verify([uri]) == 0


@pytest.mark.parametrize(
    ("size", "message"), [(598, "expected 600 bytes, got 598"), (602, "expected 600 bytes, got 602")]
)
def test_a_truncated_or_grown_shard_is_refused_when_opened(make_shards: MakeShards, size: int, message: str):
    uri = make_shards("s", random_documents(300, seed=1))
    path = Path(uri, "00000.ds")
    path.write_bytes((path.read_bytes() + b"xx")[:size])
    with pytest.raises(DataError, match=rf"00000\.ds: {message}"):
        Source(uri)
    assert verify([uri]) == 1


def test_a_shard_truncated_while_it_is_used_gives_no_made_up_tokens(make_shards: MakeShards):
    uri = make_shards("s", random_documents(300, seed=1))
    source = Source(uri)
    source.tokens(250, 300)
    path = Path(uri, "00000.ds")
    path.write_bytes(path.read_bytes()[:590])
    with pytest.raises(DataError, match=r"asked for bytes 448 to 600, got 142 bytes"):
        source.tokens(250, 300)


def test_a_missing_shard_is_named(make_shards: MakeShards):
    uri = make_shards("s", DOCUMENTS)
    Path(uri, "00000.ds.index").unlink()
    with pytest.raises(DataError, match=r"00000\.ds\.index is missing; restore it"):
        Source(uri)


def test_every_damaged_file_is_named_at_once(make_shards: MakeShards):
    uri = make_shards("s", DOCUMENTS, DOCUMENTS)
    Path(uri, "00000.ds.index").unlink()
    Path(uri, "00001.ds").write_bytes(b"")
    with pytest.raises(DataError) as refusal:
        Source(uri)
    missing, truncated = str(refusal.value).splitlines()
    assert "00000.ds.index is missing" in missing
    assert "00001.ds: expected 18 bytes, got 0" in truncated


def test_a_folder_without_a_manifest_is_unfinished(tmp_path: Path):
    with ShardWriter(str(tmp_path), "00000", "uint16") as writer:
        writer.add("d", [5, 1])
    with pytest.raises(DataError, match=r"manifest\.json is missing: not a folder of shards, or it was not finished"):
        Source(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]"])
def test_a_garbled_manifest_is_refused(make_shards: MakeShards, text: str):
    uri = make_shards("s", DOCUMENTS)
    Path(uri, "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        Source(uri)


def test_a_manifest_of_another_width_is_refused(make_shards: MakeShards):
    manifest = Path(make_shards("s", DOCUMENTS), "manifest.json")
    manifest.write_text(manifest.read_text().replace("uint16", "uint32"))
    with pytest.raises(DataError, match="9 tokens of type uint32 are not 18 bytes"):
        Source(str(manifest.parent))


def test_the_fingerprint_follows_the_tokens_and_not_the_place(make_shards: MakeShards):
    prints = [Manifest.load(make_shards(name, DOCUMENTS)).fingerprint for name in ("a", "b")]
    other = Manifest.load(make_shards("c", [[5, 6, 1], [7, 1], [8, 9, 11, 1]])).fingerprint
    assert prints[0] == prints[1] != other


def test_verify_names_every_damaged_file_below_a_folder(
    make_shards: MakeShards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_shards("good", DOCUMENTS)
    flip_bit(Path(make_shards("bad", DOCUMENTS), "00000.ds"), 4)
    Path(make_shards("short", DOCUMENTS), "00000.ds.names").write_text("short-0-0\n")
    assert verify([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "bad/00000.ds: bytes 0 to 18 differ" in captured.err
    assert "short/00000.ds.names: expected 30 bytes, got 10" in captured.err
    assert "27 tokens" in captured.out
    assert "2 damaged files" in captured.out


def test_verify_of_a_folder_without_data_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert verify([str(tmp_path)]) == 2
    assert "no manifest.json there or below" in capsys.readouterr().err


def test_the_manifest_appears_whole_or_not_at_all(make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch):
    uri = make_shards("s", DOCUMENTS)
    before = Path(uri, "manifest.json").read_text()
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: "{ half of a manif")
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.mv", _no_space)
    with pytest.raises(OSError, match="No space left"):
        Manifest.load(uri).save(uri)
    assert Path(uri, "manifest.json").read_text() == before


def _no_space(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")
