"""train/checkpoint/tokenizer.py: weights keep the tokenizer that gave their ids a meaning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from tests.train.small import mesh, small_settings, write_run
from train.checkpoint.tokenizer import HASH, check_hash, check_origin_tokenizer, keep_tokenizer, tokenizer_hash
from train.export import export


def make_tokenizer(folder: Path, text: str) -> Path:
    save_tokenizer(train_tokenizer([text * 20], vocab_size=270), folder)
    return folder


def add_checkpoint(run_dir: Path, step: int, tokenizer_hash: str | None) -> Path:
    """As far as its tokenizer goes; None: of a version that stored no hash."""
    folder = run_dir / f"checkpoint/step-{step}"
    folder.mkdir(parents=True)
    (folder / ".metadata").touch()
    if tokenizer_hash is not None:
        (folder / HASH).write_text(tokenizer_hash)
    return folder


def reformat(source: Path, folder: Path) -> Path:
    """The same tokenizer, written otherwise, and with what a model is used with."""
    content = json.loads((source / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    content["model"]["dropout"] = 0.1
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]  # as older versions wrote it
    shutil.copytree(source, folder)
    (folder / "tokenizer.json").write_text(json.dumps(dict(reversed(content.items())), indent=3))
    return folder


class Kept(NamedTuple):
    """A run directory and two tokenizers."""

    run_dir: Path
    first: Path
    other: Path

    def start(self, source: Path) -> tuple[str, str | None]:
        """(the hash that its checkpoints get, what is said) as its rank 0 starts with the data of `source`."""
        found = tokenizer_hash(self.run_dir, self.run_dir / "checkpoint", source)
        return found, keep_tokenizer(self.run_dir, self.run_dir / "checkpoint", source)

    def kept(self) -> bytes:
        return (self.run_dir / "tokenizer/tokenizer.json").read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Kept:
    first, other = make_tokenizer(tmp_path / "a", "the cat sat "), make_tokenizer(tmp_path / "b", "hot dogs bark ")
    return Kept(tmp_path / "run", first, other)


def test_a_run_keeps_the_tokenizer_of_its_first_step_and_refuses_another(run: Kept) -> None:
    found, said = run.start(run.first)
    assert said is None
    assert run.kept() == (run.first / "tokenizer.json").read_bytes()
    add_checkpoint(run.run_dir, 1, found)
    assert run.start(run.first) == (found, None)
    with pytest.raises(ConfigError, match=r"the run's tokenizer has hash .* corpus or settings have changed"):
        run.start(run.other)


def test_a_start_that_saved_no_step_binds_no_tokenizer(run: Kept) -> None:
    run.start(run.first)
    found, said = run.start(run.other)
    assert said is None
    assert run.kept() == (run.other / "tokenizer.json").read_bytes()
    add_checkpoint(run.run_dir, 1, found)
    with pytest.raises(ConfigError, match="corpus or settings have changed"):
        run.start(run.first)


def test_a_run_that_kept_none_takes_that_of_its_data_and_says_so(run: Kept) -> None:
    add_checkpoint(run.run_dir, 1, None)
    found, said = run.start(run.first)
    assert f"{run.run_dir / 'tokenizer'}: checkpoints of this run do not say" in str(said)
    assert found[:12] in str(said)
    assert run.kept() == (run.first / "tokenizer.json").read_bytes()
    assert run.start(run.first) == (found, None)  # once


def test_a_copy_that_is_gone_or_damaged_is_made_again(run: Kept) -> None:
    found, _ = run.start(run.first)
    add_checkpoint(run.run_dir, 1, found)
    for damage in (
        lambda: shutil.rmtree(run.run_dir / "tokenizer"),
        lambda: shutil.copytree(run.other, run.run_dir / "tokenizer", dirs_exist_ok=True),
    ):
        damage()
        assert run.start(run.first) == (found, None)
        assert run.kept() == (run.first / "tokenizer.json").read_bytes()
        with pytest.raises(ConfigError, match="corpus or settings have changed"):
            run.start(run.other)


def test_the_same_tokenizer_written_otherwise_is_accepted_and_changes_nothing(run: Kept, tmp_path: Path) -> None:
    found, _ = run.start(run.first)
    add_checkpoint(run.run_dir, 1, found)
    assert run.start(reformat(run.first, tmp_path / "reformatted")) == (found, None)
    assert run.kept() == (run.first / "tokenizer.json").read_bytes()


# Weights to start from


def origin_of(kind: str, run: Kept, tmp_path: Path) -> Path:
    """Weights that were trained with run.first, as each kind of origin says so."""
    if kind == "folder":
        return run.first
    found, _ = run.start(run.first)
    checkpoint = add_checkpoint(run.run_dir, 3, None if kind == "of an older version" else found)
    if kind == "link":
        (tmp_path / "base").symlink_to(checkpoint)
        return tmp_path / "base"
    if kind == "moved":
        return checkpoint.rename(tmp_path / "base")
    return checkpoint


@pytest.mark.parametrize("kind", ["folder", "of a run", "of an older version", "link", "moved"])
def test_weights_of_another_tokenizer_are_refused_as_a_start_and_those_of_the_same_are_not(
    kind: str, run: Kept, tmp_path: Path
) -> None:
    origin = origin_of(kind, run, tmp_path)
    assert check_origin_tokenizer(origin, run.first) is None
    if kind != "moved":  # has the hash of the file alone
        assert check_origin_tokenizer(origin, reformat(run.first, tmp_path / "reformatted")) is None
    with pytest.raises(ConfigError) as refusal:
        check_origin_tokenizer(origin, run.other)
    (problem,) = refusal.value.problems
    named = {"folder": run.first / "tokenizer.json", "moved": origin / HASH}
    assert problem.startswith(f"checkpoint.initial_load_path={origin}: its weights were trained with the tokenizer ")
    assert str(named.get(kind, run.run_dir / "tokenizer/tokenizer.json")) in problem
    assert f"{run.other / 'tokenizer.json'} (hash " in problem
    assert "allow it with data.tokenizer_may_differ=true" in problem


def test_a_start_that_does_not_tell_its_tokenizer_is_said_to_be_uncompared(run: Kept, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    said = check_origin_tokenizer(tmp_path / "hf", run.first)
    assert "has no tokenizer.json, so its tokenizer could not be compared" in str(said)


def test_a_damaged_tokenizer_of_a_start_is_named(run: Kept) -> None:
    (run.first / "tokenizer.json").write_text("{")
    with pytest.raises(
        ConfigError, match=rf"tokenizers cannot be compared: {run.first}/tokenizer\.json is no tokenizer"
    ):
        check_origin_tokenizer(run.first, run.other)


# Export


def test_a_checkpoint_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "a", "the cat sat ")
    check_hash(tmp_path, tokenizer)  # a checkpoint of an older version has no hash
    (tmp_path / HASH).write_text("0" * 64)
    with pytest.raises(ConfigError, match="was trained with 000000000000; restore it"):
        check_hash(tmp_path, tokenizer)


def test_an_export_takes_what_the_run_has_kept_when_its_data_are_gone(tmp_path: Path) -> None:
    settings = [*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1)]
    write_run(settings, tmp_path / "run")
    keep_tokenizer(tmp_path / "run", tmp_path / "run/checkpoint", tmp_path / "data/tokenizer")
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
