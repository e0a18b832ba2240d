"""Shards that others wrote: read where they lie, byte for byte and document for document (R18)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.index import index, main
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import ShardSource
from data_pipelines.shards.reader import open_part
from data_pipelines.shards.source import TokenSource
from data_pipelines.verify import verify
from tests.data_pipelines.conftest import random_documents
from tests.data_pipelines.formats.conftest import WRITERS, Documents

GOLDEN = Path(__file__).parents[2] / "data/formats"
DOCUMENTS = random_documents(1000, seed=7, vocab_size=290)


def opened(uri: str | Path) -> TokenSource:
    return open_part(ShardSource(train=str(uri)), str(uri))


def assert_reads(source: TokenSource, documents: Documents) -> None:
    """Every token, every end, and every document by its place."""
    tokens = np.concatenate([np.array(one) for one in documents])
    ends = np.cumsum([len(one) for one in documents])
    assert source.num_tokens == len(tokens)
    assert np.array_equal(source.tokens(0, len(tokens)), tokens)
    assert np.array_equal(source.document_ends(0, len(tokens)), ends[:-1])
    for start in range(0, len(tokens) - 70, 53):
        assert np.array_equal(source.tokens(start, start + 70), tokens[start : start + 70])
    if len({source.place(int(end) - 1).shard for end in ends}) == 1:
        assert [source.place(int(end) - 1).document for end in ends] == list(range(len(documents)))


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_is_read_as_its_documents(name: str, tmp_path: Path, tokenizer_dir: Path) -> None:
    WRITERS[name](tmp_path, DOCUMENTS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    manifest = index(str(tmp_path), str(tokenizer_dir))
    assert (manifest.num_tokens, manifest.num_documents) == (1000, len(DOCUMENTS))
    assert_reads(opened(tmp_path), DOCUMENTS)
    assert verify(str(tmp_path)) == 0
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_may_not_be_written_gets_its_manifest_elsewhere(
    name: str, tmp_path: Path, tokenizer_dir: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    WRITERS[name](tmp_path / "theirs", DOCUMENTS)
    before = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    index(str(tmp_path / "theirs"), str(tokenizer_dir), out=str(tmp_path / "ours"))
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == before
    assert_reads(opened(tmp_path / "ours"), DOCUMENTS)
    assert verify(str(tmp_path / "ours")) == 0


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_what_megatron_wrote_is_read(dtype: str, tmp_path: Path, tokenizer_dir: Path) -> None:
    for suffix in (".bin", ".idx"):
        (tmp_path / f"web{suffix}").write_bytes((GOLDEN / f"megatron_{dtype}{suffix}").read_bytes())
    index(str(tmp_path), str(tokenizer_dir))
    assert_reads(opened(tmp_path), DOCUMENTS)


def test_several_files_are_one_sequence_whatever_the_number_of_processes(tmp_path: Path, tokenizer_dir: Path) -> None:
    for number in range(3):
        folder = tmp_path / f"part{number}"
        folder.mkdir()
        WRITERS["megatron"](folder, DOCUMENTS[number::3])
        for suffix in (".bin", ".idx"):
            (folder / f"a{suffix}").rename(tmp_path / f"{number}{suffix}")
    manifests = [
        index(str(tmp_path), str(tokenizer_dir), out=str(tmp_path / f"out{workers}"), workers=workers)
        for workers in (1, 2)
    ]
    assert manifests[0] == manifests[1]
    assert_reads(opened(tmp_path / "out1"), [*DOCUMENTS[0::3], *DOCUMENTS[1::3], *DOCUMENTS[2::3]])


def test_megatron_reads_ours(tmp_path: Path, tokenizer_dir: Path) -> None:
    """Needs the extra `peers`."""
    module = pytest.importorskip("megatron.core.datasets.indexed_dataset", exc_type=ImportError)
    WRITERS["megatron"](tmp_path, DOCUMENTS)
    theirs = module.IndexedDataset(str(tmp_path / "a"))
    assert [theirs[k].tolist() for k in range(len(theirs))] == [list(one) for one in DOCUMENTS]


def test_olmo_reads_the_same_documents(tmp_path: Path, tokenizer_dir: Path) -> None:
    """Needs the extra `peers`."""
    module = pytest.importorskip("olmo_core.data.utils", exc_type=ImportError)
    WRITERS["olmo"](tmp_path, DOCUMENTS)
    ends = np.cumsum([len(one) for one in DOCUMENTS]).tolist()
    theirs = module.iter_document_indices(tmp_path / "a.npy", eos_token_id=1, dtype=np.uint16, use_array_if_local=True)
    assert [int(stop) for _, stop in theirs] == ends


REFUSED = {
    "none": ("is no folder|no shards of any format that is read: datatrove, megatron, olmo, parquet", {}),
    "idx without bin": (r"a\.bin is missing: a\.idx is the index of it", {"a.idx": b"MMIDIDX\0\0"}),
    "no magic": (r"a\.idx: byte 0: no index of Megatron's", {"a.idx": bytes(60), "a.bin": bytes(4)}),
    "half a token": (r"a\.npy: 5 bytes are no whole number of ids of 2 bytes", {"a.npy": bytes(5)}),
    "numpy": (r"a\.npy: byte 0: an array of numpy\.save|numpy.save wrote", {"a.npy": b"\x93NUMPY" + bytes(10)}),
    "no index": (r"a\.ds\.index is missing: without it nobody knows", {"a.ds": bytes(4)}),
    "index goes back": (
        r"a\.ds\.index: document 1 ends at token 1 and begins at 2",
        {"a.ds": bytes(8), "a.ds.index": np.array([2, 1, 4], "<u8").tobytes()},
    ),
    "index ends early": (
        r"a\.ds\.index: the documents end at token 3, the file has 4 tokens",
        {"a.ds": bytes(8), "a.ds.index": np.array([2, 3], "<u8").tobytes()},
    ),
    "no end-of-text": (
        r"a\.ds, token 1: a document ends with id 7, not with the end-of-text token \(1\).*--any-end",
        {"a.ds": np.array([5, 7], "<u2").tobytes(), "a.ds.index": np.array([2], "<u8").tobytes()},
    ),
    "beyond the vocabulary": (
        r"a\.ds, token 0 \(byte 0\): id 9,000 is beyond the 297 ids",
        {"a.ds": np.array([9000, 1], "<u2").tobytes(), "a.ds.index": np.array([2], "<u8").tobytes()},
    ),
    "two formats": (
        r"shards of several formats \(datatrove, olmo\); choose one by --format",
        {"a.ds": bytes(4), "a.ds.index": np.array([2], "<u8").tobytes(), "b.npy": bytes(4)},
    ),
    "no parquet": (r"a\.parquet: cannot be read as Parquet", {"a.parquet": b"PAR1 and no more"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_with_its_place(
    name: str, tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, files = REFUSED[name]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        index(str(tmp_path), str(tokenizer_dir))
    assert not (tmp_path / "manifest.json").exists()
    assert main([str(tmp_path), "--tokenizer", str(tokenizer_dir)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_parquet_of_text_is_sent_to_the_tokenizer(tmp_path: Path, tokenizer_dir: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="expected a column input_ids of lists of integers, got text; text is"):
        index(str(tmp_path), str(tokenizer_dir))


def test_shards_of_others_without_a_manifest_are_not_trained_on(tmp_path: Path) -> None:
    WRITERS["megatron"](tmp_path, DOCUMENTS)
    with pytest.raises(DataError, match=r"shards that others wrote get one by python -m data_pipelines\.index"):
        opened(tmp_path)


def test_a_manifest_that_is_there_is_not_written_over(tmp_path: Path, tokenizer_dir: Path) -> None:
    WRITERS["olmo"](tmp_path, DOCUMENTS)
    index(str(tmp_path), str(tokenizer_dir))
    with pytest.raises(ValueError, match="has a manifest already"):
        index(str(tmp_path), str(tokenizer_dir))
