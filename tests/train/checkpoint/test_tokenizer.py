"""train/checkpoint/tokenizer.py: weights keep the tokenizer that gave their ids a meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from tests.train.small import mesh, small_settings, write_run
from train.checkpoint.tokenizer import HASH, check_hash, keep_tokenizer
from train.export import export


def make_tokenizer(folder: Path, text: str) -> Path:
    save_tokenizer(train_tokenizer([text * 20], vocab_size=270), folder)
    return folder


def test_a_run_keeps_the_tokenizer_of_its_first_start_and_refuses_another(tmp_path: Path) -> None:
    first, other = make_tokenizer(tmp_path / "a", "the cat sat "), make_tokenizer(tmp_path / "b", "hot dogs bark ")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    found = keep_tokenizer(run_dir, first)
    assert (run_dir / "tokenizer/tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    assert keep_tokenizer(run_dir, first) == found
    with pytest.raises(ConfigError, match=r"the run's tokenizer has hash .* corpus or settings have changed"):
        keep_tokenizer(run_dir, other)


def test_a_checkpoint_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "a", "the cat sat ")
    check_hash(tmp_path, tokenizer)  # a checkpoint of an older version has no hash
    (tmp_path / HASH).write_text("0" * 64)
    with pytest.raises(ConfigError, match="was trained with 000000000000; restore it"):
        check_hash(tmp_path, tokenizer)


def test_an_export_takes_what_the_run_has_kept_when_its_data_are_gone(tmp_path: Path) -> None:
    settings = [*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1)]
    write_run(settings, tmp_path / "run")
    keep_tokenizer(tmp_path / "run", tmp_path / "data/tokenizer")
    expected = (tmp_path / "data/tokenizer/tokenizer.json").read_bytes()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    export(tmp_path / "run", tmp_path / "hf", step=None, dtype="float32")
    assert (tmp_path / "hf/tokenizer.json").read_bytes() == expected


def test_a_model_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    write_run([*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1)], tmp_path / "run")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no export of this program; choose another folder"):
        export(tmp_path / "run", theirs, step=None, dtype="float32")
    assert [file.name for file in theirs.iterdir()] == ["config.json"]


@pytest.mark.parametrize("out", ["checkpoint", "checkpoint/step-1", "."])
def test_no_folder_of_the_run_itself_is_replaced(tmp_path: Path, out: str) -> None:
    run_dir = tmp_path / "run"
    write_run([*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1)], run_dir)
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match="is no export of this program; choose another folder"):
        export(run_dir, run_dir / out, step=None, dtype="float32")
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before
