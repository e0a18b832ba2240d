from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from data_pipelines.corpora import preparation as module
from data_pipelines.corpora.files import FilesData, FileSource
from data_pipelines.corpora.kinds import DataConfig
from data_pipelines.corpora.preparation import open_prepared, prepare
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.corpora.stdlib import StdlibData
from data_pipelines.documents.find import stored_file
from data_pipelines.prepare import main as prepare_command
from data_pipelines.shards.manifest import DataError, Manifest
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.shards.reader import OpenData
from data_pipelines.shards.source import TokenSource
from data_pipelines.tokenize import main as tokenize
from data_pipelines.tokenize import tokenize_files
from data_pipelines.tokenizer.encoder import TextEncoder
from data_pipelines.verify import main as verify
from tests.data_pipelines.conftest import MakeShards


def write_texts(folder: Path, num_documents: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"text": f"document {k} says {k * k} and nothing else. " * (1 + k % 7)} for k in range(num_documents)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for k in range(5):
        (folder / f"{k}.txt").write_text(f"text number {k}. " * 40)


def files_data(folder: Path, **settings) -> FilesData:
    sources = {"lines": FileSource(glob=f"{folder}/texts/*.jsonl"), "texts": FileSource(glob=f"{folder}/texts/*.txt")}
    return FilesData(dir=str(folder / "data"), sources=sources, **{"vocab_size": 300, "held_out": 0.1, **settings})


def prepared_of(data: FilesData | ShardsData) -> Prepared:
    return prepare(data).prepared


@pytest.fixture
def data(tmp_path: Path) -> FilesData:
    write_texts(tmp_path / "texts")
    return files_data(tmp_path)


def hashes(folder: str | Path) -> dict[str, str]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def document_names(source: TokenSource) -> set[str]:
    ends = [0, *source.document_ends(0, source.num_tokens).tolist()]
    return {source.place(token).name for token in ends}


def test_every_document_is_trained_on_or_held_out(data: FilesData):
    opened = prepare(data)
    assert sorted(opened.train) == ["lines", "texts"]
    train, held_out = opened.train, opened.held_out
    assert document_names(train["lines"]) | document_names(held_out["lines"]) == {f"a.jsonl:{k}" for k in range(1, 41)}
    assert document_names(train["texts"]) | document_names(held_out["texts"]) == {f"{k}.txt" for k in range(5)}
    for name in train:
        assert not document_names(train[name]) & document_names(held_out[name])
        assert document_names(held_out[name])


def test_the_tokens_are_the_documents(data: FilesData, tmp_path: Path):
    opened = prepare(data)
    encoder = TextEncoder(opened.prepared.tokenizer_dir)
    assert encoder.vocab_size <= 300
    source = opened.train["texts"]
    edges = [0, *source.document_ends(0, source.num_tokens).tolist(), source.num_tokens]
    for start, end in pairwise(edges):
        *ids, eos_id = source.tokens(start, end).tolist()
        assert encoder.decode(ids) == (tmp_path / "texts" / source.place(start).name).read_text()
        assert eos_id == encoder.eos_id


def test_a_second_call_does_no_work_and_a_copy_elsewhere_gives_the_same_bytes(data: FilesData, tmp_path: Path):
    first = hashes(prepare(data).prepared.tokenizer_dir + "/..")
    times = {path: path.stat().st_mtime_ns for path in Path(data.dir).rglob("*.ds")}
    assert hashes(prepare(data).prepared.tokenizer_dir + "/..") == first
    assert {path: path.stat().st_mtime_ns for path in Path(data.dir).rglob("*.ds")} == times
    write_texts(tmp_path / "moved/texts")
    assert hashes(prepare(files_data(tmp_path / "moved")).prepared.tokenizer_dir + "/..") == first


def test_a_changed_corpus_or_setting_is_prepared_anew_and_the_old_one_stays(data: FilesData, tmp_path: Path):
    first = prepared_of(data)
    write_texts(tmp_path / "texts", num_documents=41)
    others = [data, files_data(tmp_path, vocab_size=310), files_data(tmp_path, held_out=0.2)]
    folders = {prepared.tokenizer_dir for prepared in (first, *map(prepared_of, others))}
    assert len(folders) == 4
    assert all((Path(folder) / "tokenizer.json").is_file() for folder in folders)


def test_mix_and_masks_need_no_new_preparation(data: FilesData, tmp_path: Path):
    changed = files_data(tmp_path, mix={"p": {"lines": 1.0}}, intra_document=False, max_epochs=3)
    assert prepared_of(changed) == prepared_of(data)


def test_where_all_is_there_nothing_is_written(data: FilesData, monkeypatch: pytest.MonkeyPatch):
    """The folder may be on a read-only mount: not even a lock is taken."""
    first = prepared_of(data)
    for lock in Path(data.dir).glob("*.lock"):
        lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in [Path(data.dir), *Path(data.dir).rglob("*")]}
    monkeypatch.setattr(module, "FileLock", None)
    assert prepared_of(data) == open_prepared(data).prepared == first
    assert {path: path.stat().st_mtime_ns for path in [Path(data.dir), *Path(data.dir).rglob("*")]} == before


def test_a_reader_never_prepares(data: FilesData, tmp_path: Path):
    with pytest.raises(DataError, match=r"data/[0-9a-f]{16}/prepared\.json is missing: .*prepare the data with"):
        open_prepared(data)
    assert not Path(data.dir).exists()
    prepared = prepared_of(data)
    assert open_prepared(data).prepared == prepared
    with pytest.raises(DataError, match="or the corpus, its settings or the tokenizer have changed since"):
        open_prepared(files_data(tmp_path, vocab_size=310))
    assert len(list(Path(data.dir).glob("*/"))) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"lines": ["test"]}', "[" * 100_000])
def test_a_damaged_list_of_parts_is_named_with_the_remedy(data: FilesData, text: str):
    root = Path(prepare(data).prepared.tokenizer_dir).parent
    (root / "prepared.json").write_text(text)
    with pytest.raises(DataError, match=r"prepared\.json is damaged; delete .*, the data are prepared again then"):
        open_prepared(data)


@pytest.mark.parametrize("open_", [prepare, open_prepared])
def test_a_tokenizer_that_did_not_make_the_shards_is_refused(data: FilesData, open_: Callable[..., OpenData]):
    """Two ids swapped: every token would mean another text, and no loss would show it."""
    folder = Path(prepare(data).prepared.tokenizer_dir)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"restore what was changed, or delete .*, the data are") as refusal:
        open_(data)
    lines = str(refusal.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["source lines", "source lines", "source texts", "source texts"]
    assert all("was made by a tokenizer with hash" in line for line in lines)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist; .*; restore what was changed, or delete"):
        open_(data)


def test_an_interrupted_preparation_is_done_again(data: FilesData, monkeypatch: pytest.MonkeyPatch):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_source", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(data)
    (leftover,) = Path(data.dir).glob("*/tokenizer")
    (leftover / "garbage").write_text("x")
    prepare(data)
    assert not (leftover / "garbage").exists()


def test_three_processes_prepare_once(data: FilesData):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(prepared_of, [data] * 3)
    assert results == [results[0]] * 3
    assert len(list(Path(data.dir).glob("*/prepared.json"))) == 1


def test_a_folder_that_cannot_be_written_is_named(data: FilesData, tmp_path: Path):
    (tmp_path / "occupied").write_text("a file")
    data.dir = str(tmp_path / "occupied")
    with pytest.raises(DataError, match=r"data\.dir=.*occupied cannot be written \(Not a directory\)"):
        prepare(data)


@pytest.mark.parametrize(
    "patched", ["data_pipelines.base.files.flush", "data_pipelines.shards.writer.HashingWriter.write"]
)
def test_a_full_disk_is_named_with_its_setting_and_nothing_stays(
    patched: str, data: FilesData, monkeypatch: pytest.MonkeyPatch
):
    """At the tokenizer, and at a shard."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(patched, fail)
    with pytest.raises(OSError, match=r"^data\.dir=.*/data: no room is left on its disk \(No space left"):
        prepare(data)
    assert not [path for path in Path(data.dir).iterdir() if path.suffix != ".lock"]


def test_a_pattern_without_a_match_leaves_no_folder(data: FilesData, tmp_path: Path):
    data.sources["none"] = FileSource(glob=f"{tmp_path}/nowhere/*.txt")
    with pytest.raises(ValueError, match=r"data\.sources\.none\.glob='.*/nowhere/\*\.txt'"):
        prepare(data)
    assert not Path(data.dir).exists()


def test_no_validation_part_without_held_out(data: FilesData, tmp_path: Path):
    opened = prepare(files_data(tmp_path, held_out=0))
    assert opened.held_out == {}
    assert opened.train["texts"].manifest.num_documents == 5


def test_a_given_tokenizer_is_used(data: FilesData, tmp_path: Path, tokenizer_dir: Path):
    opened = prepare(files_data(tmp_path, tokenizer=str(tokenizer_dir)))
    assert opened.prepared.tokenizer_dir == str(tokenizer_dir)
    assert opened.train["lines"].manifest.tokenizer == TextEncoder(tokenizer_dir).hash


def test_shards_of_another_tokenizer_are_refused(data: FilesData, tokenizer_dir: Path):
    prepared = prepared_of(data)
    uri = prepared.sources["lines"].train
    good = ShardsData(tokenizer=prepared.tokenizer_dir, sources={"l": ShardSource(train=uri)})
    assert prepared_of(good) == Prepared(tokenizer_dir=prepared.tokenizer_dir, sources={"l": ShardSource(train=uri)})
    with pytest.raises(DataError, match=r"data\.sources\.l: .* was made by a tokenizer with hash"):
        prepare(ShardsData(tokenizer=str(tokenizer_dir), sources={"l": ShardSource(train=uri)}))
    with pytest.raises(ValueError, match=r"data\.sources is empty"):
        prepare(ShardsData(tokenizer=prepared.tokenizer_dir))


def test_everything_that_is_wrong_with_shards_is_said_at_once(
    tokenizer_dir: Path, tmp_path: Path, make_shards: MakeShards
):
    uri = make_shards("other", [[5, 6, 1]])
    sources = {"a": ShardSource(train=f"{tmp_path}/gone", held_out=uri), "b": ShardSource(train=uri)}
    with pytest.raises(DataError) as refusal:
        prepare(ShardsData(tokenizer=str(tokenizer_dir), sources=sources))
    gone, held_out, train = str(refusal.value).splitlines()
    assert f"{tmp_path}/gone/manifest.json is missing" in gone
    assert held_out.startswith(f"data.sources.a: {uri} was made by a tokenizer with hash none")
    assert train.startswith(f"data.sources.b: {uri} was made by a tokenizer with hash none")


def test_preparing_by_command_says_what_is_where(data: FilesData, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overrides = [
        "data=files",
        f"data.dir={data.dir}",
        "data.vocab_size=300",
        "data.held_out=0.1",
        "data.mix=proportional",
    ]
    sources = [f"data.sources.{name}.glob='{source.glob}'" for name, source in data.sources.items()]
    assert prepare_command([*overrides, *sources]) == 0
    lines = capsys.readouterr().out.splitlines()
    prepared = open_prepared(data).prepared
    assert lines[0] == f"tokenizer: {prepared.tokenizer_dir}"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "lines, train", "lines, held out", "texts, train", "texts, held out",
    ]  # fmt: skip
    assert lines[4].endswith(f"1 documents, {prepared.sources['texts'].held_out}")


def test_the_data_of_a_sweep_are_prepared_once_all_sections_are_right(
    data: FilesData, capsys: pytest.CaptureFixture[str]
):
    overrides = ["-m", "data=files", f"data.dir={data.dir}", "data.held_out=0.1"]
    sources = [f"data.sources.{name}.glob='{source.glob}'" for name, source in data.sources.items()]
    assert prepare_command([*overrides, *sources, "data.vocab_size=300,3"]) == 2
    assert "(with vocab_size=3)" in capsys.readouterr().err
    assert not Path(data.dir).exists()
    assert prepare_command([*overrides, *sources, "data.vocab_size=300,310"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len({line for line in shown if line.startswith("tokenizer: ")}) == 2


def test_the_command_refuses_every_wrong_key_of_the_section_at_once(capsys: pytest.CaptureFixture[str]):
    assert prepare_command(["data.vocabsize=300", "data.held_out=1.5", "dta.tokenizer=tok"]) == 2
    error = capsys.readouterr().err
    assert "error: dta: unknown section (did you mean data?)" in error
    assert "error: data.vocabsize: unknown key (did you mean vocab_size?)" in error
    assert "error: data.held_out: Input should be less than 1 (got 1.5)" in error


# abfs: a store whose package nobody installs along with this project
def test_every_command_names_the_package_that_a_store_needs(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.txt").write_text("text")
    store, tokenizer = "abfs://bucket/x", ["--tokenizer", str(tokenizer_dir)]
    assert verify([store]) == 2
    assert tokenize(["--input", store, *tokenizer, "--out", str(tmp_path / "out")]) == 2
    assert tokenize(["--input", f"{tmp_path}/*.txt", *tokenizer, "--out", store]) == 2
    assert prepare_command(["data=files", f"data.sources.web.glob={store}"]) == 2
    shards = [
        "data=shards",
        "data.mix=proportional",
        f"data.tokenizer={tokenizer_dir}",
        f"data.sources.web.train={store}",
    ]
    assert prepare_command(shards) == 2
    errors = capsys.readouterr().err.splitlines()
    said = [line for line in errors if line.startswith(f"error: {store}: Install adlfs")]
    assert len(said) == 5, errors


def test_the_command_writes_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
):
    write_texts(tmp_path / "texts")
    for workers in (1, 2):
        out = str(tmp_path / f"out{workers}")
        arguments = ["--input", f"{tmp_path}/texts/*", "--tokenizer", str(tokenizer_dir), "--out", out]
        assert tokenize([*arguments, "--workers", str(workers), "--shard-size", "1"]) == 0
    assert hashes(tmp_path / "out1") == hashes(tmp_path / "out2")
    assert "45 documents" in capsys.readouterr().out
    assert len(Manifest.load(str(tmp_path / "out1")).shards) == 6  # a file each: no two fit into a byte


def test_the_command_says_what_is_wrong(tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]):
    write_texts(tmp_path / "texts")
    out = str(tmp_path / "out")

    def error(pattern: str, tokenizer: Path, key: str = "text") -> str:
        arguments = ["--input", f"{tmp_path}/{pattern}", "--tokenizer", str(tokenizer), "--out", out]
        assert tokenize([*arguments, "--text-key", key, "--workers", "1"]) == 2
        return capsys.readouterr().err

    assert f"no file matches --input='{tmp_path}/nothing/*'" in error("nothing/*", tokenizer_dir)
    assert "tokenizer.json does not exist" in error("texts/*", tmp_path)
    assert "a.jsonl, line 1: expected text under 'body', got text" in error("texts/*.jsonl", tokenizer_dir, "body")
    assert not Manifest.exists(out)


def test_shards_are_never_overwritten(tmp_path: Path, tokenizer_dir: Path):
    write_texts(tmp_path / "texts")
    files = {"a.jsonl": stored_file(str(tmp_path / "texts/a.jsonl"))}
    tokenize_files(files, str(tokenizer_dir), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="holds shards already; choose another folder or delete that one"):
        tokenize_files(files, str(tokenizer_dir), str(tmp_path / "out"))


def test_empty_documents_only_are_nothing_to_train_on(tmp_path: Path, tokenizer_dir: Path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="the documents are all empty"):
        tokenize_files(
            {"empty.txt": stored_file(str(tmp_path / "empty.txt"))}, str(tokenizer_dir), str(tmp_path / "out")
        )


def test_kind_chooses_the_class_and_unknown_keys_are_refused():
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_python({"kind": "stdlib"}) == StdlibData()
    files = adapter.validate_python({"kind": "files", "sources": {"b": {"glob": "x"}, "a": {"glob": "y"}}})
    assert isinstance(files, FilesData)
    assert files.sources["a"] == FileSource(glob="y", text_key="text")
    assert (files.source_names(), StdlibData().source_names()) == (["a", "b"], ["code", "prose", "stem"])
    for section in ({"kind": "stdlib", "vocab": 1}, {"kind": "web"}, {"kind": "files", "held_out": 1.5}):
        with pytest.raises(ValidationError):
            adapter.validate_python(section, extra="forbid")
