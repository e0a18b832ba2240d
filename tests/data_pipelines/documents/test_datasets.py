"""What Hugging Face `datasets` saved or finds is read as `datasets` itself reads it."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import fsspec
import pytest

from data_pipelines.corpora.files import FileSource, files_corpus, files_fingerprint
from data_pipelines.documents import Document
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.find import find_files
from data_pipelines.documents.kinds import hub
from data_pipelines.documents.pieces import read_documents, read_piece, split

ROWS = datasets.Dataset.from_dict({"text": [f"document {k}" for k in range(9)], "n": list(range(9))})


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    hub._streamed.cache_clear()


def texts(pattern: str) -> list[str]:
    return [
        document.text
        for name, file in find_files(pattern, setting="glob").items()
        for document in read_documents(file, name)
    ]


def parquet_folder(folder: Path) -> Path:
    folder.mkdir()
    ROWS.select(range(5)).to_parquet(folder / "train-0.parquet")
    ROWS.select(range(5, 9)).to_parquet(folder / "train-1.parquet")
    ROWS.select([8]).to_parquet(folder / "test-0.parquet")
    return folder


def test_a_saved_folder_is_its_rows_in_their_order(tmp_path: Path) -> None:
    ROWS.shuffle(seed=1).save_to_disk(tmp_path / "saved", num_shards=3)
    assert texts(f"{tmp_path}/saved") == list(datasets.load_from_disk(tmp_path / "saved")["text"])
    assert len(find_files(f"{tmp_path}/saved", setting="glob")) == 3


def test_a_saved_folder_may_lie_on_any_store(tmp_path: Path) -> None:
    ROWS.save_to_disk(tmp_path / "saved")
    fsspec.filesystem("memory").put(f"{tmp_path}/saved", "/kept", recursive=True)
    assert texts("memory://kept") == list(ROWS["text"])


def test_of_several_splits_one_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": ROWS, "test": ROWS.select([3])}).save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match=r"glob: .*both holds several splits; name one: test, train"):
        find_files(f"{tmp_path}/both", setting="glob")
    assert texts(f"{tmp_path}/both/test") == ["document 3"]


def test_a_saved_folder_without_one_of_its_files_is_refused(tmp_path: Path) -> None:
    ROWS.save_to_disk(tmp_path / "saved", num_shards=3)
    (tmp_path / "saved/data-00001-of-00003.arrow").unlink()
    with pytest.raises(ValueError, match=r"data-00001-of-00003\.arrow is missing, which .*state\.json lists"):
        find_files(f"{tmp_path}/saved", setting="glob")
    (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json does not list the files of a data set"):
        find_files(f"{tmp_path}/saved", setting="glob")


def test_a_data_set_by_name_is_read_file_by_file(tmp_path: Path) -> None:
    """In pieces that each process reads for itself; together they are what `datasets` streams."""
    folder = parquet_folder(tmp_path / "set")
    parts = split(find_files(f"datasets://{folder}", setting="glob"), ReadOptions(), 1)
    read = [list(read_piece(part, ReadOptions(), Tally())) for part in parts]
    assert [len(part) for part in read] == [5, 4]
    assert read[1][0] == Document("train/00001:1", "document 5")
    stream = datasets.load_dataset(str(folder), split="train", streaming=True)
    assert [document.text for part in read for document in part] == [row["text"] for row in stream]
    assert texts(f"datasets://{folder}?split=test") == ["document 8"]


def test_a_data_set_by_name_is_a_source_of_data_files(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "set")
    sources = {"web": FileSource(glob=f"datasets://{folder}?split=test")}
    assert list(files_corpus(sources)["web"]()) == [Document("test/00000:1", "document 8")]
    before = files_fingerprint(sources)
    ROWS.select([7]).to_parquet(folder / "test-0.parquet")
    hub._streamed.cache_clear()  # as another process
    assert files_fingerprint(sources) != before


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("datasets://{}?split=nope", "`datasets` cannot open it (ValueError: Bad split: nope. Available splits: ["),
        ("datasets://{}?name=de", "`datasets` cannot open it (ValueError: BuilderConfig 'de' not found"),
        ("datasets://{}?shuffle=1", "shuffle is none of its options, name, split, revision, data_dir"),
        ("datasets://no/such", "`datasets` cannot open it (ConnectionError: Couldn't reach 'no/such' on the Hub"),
    ],
)
def test_what_is_no_data_set_is_named_with_its_setting(uri: str, words: str, tmp_path: Path) -> None:
    uri = uri.format(parquet_folder(tmp_path / "set"))
    with pytest.raises(ValueError, match=re.escape(f"glob={uri!r}: {words}")):
        find_files(uri, setting="glob")


def test_rows_of_a_data_set_are_text_or_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["one", None, "a\0"]}).to_parquet(tmp_path / "train.parquet")
    (file,) = find_files(f"datasets://{tmp_path}", setting="glob").values()
    with pytest.raises(ValueError, match="row 2: expected text under 'text', got null"):
        list(read_documents(file, "x"))
    tally = Tally()
    assert list(read_documents(file, "x", ReadOptions(undecodable="skip"), tally)) == [Document("x:1", "one")]
    assert tally.undecodable == 2
    with pytest.raises(ValueError, match="row 1: expected text under 'body', got text; set text_key"):
        list(read_documents(file, "x", ReadOptions("body")))
