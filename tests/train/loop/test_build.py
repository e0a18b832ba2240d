"""train/loop/build.py: a run reads the text that it began with, or says so; its folder has it from the first step."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.batches.loader import PlanLoader
from data_pipelines.batches.record import read_data_record
from data_pipelines.settings.compose import compose
from tests.counted import CountedStore, count_opens
from tests.train.small import MODEL, VOCAB_SIZE, mesh, small_settings
from train.config.check import check
from train.config.run import Run
from train.config.rundir import open_run_dir
from train.evaluation.held_out import HeldOut
from train.loop.build import trainer_config
from train.process.stop import StopWish

TEXT = "the cat sat on the mat, and the dog on the log. "


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Ten files; which of them is held out follows from their names."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text(f"{number} {TEXT * 60}")
    return folder


def start(texts: Path, *overrides: str) -> Run:
    """A start up to the end of its first step, without the engine."""
    data = [
        "data=files",
        f"data.sources.web.glob={texts}/*.txt",
        f"data.dir={texts.parent}/data",
        "data.mix=proportional",
    ]
    sizes = ["training.seq_len=32", "schedule.token_scale=1e-10", f"data.vocab_size={VOCAB_SIZE}", "data.held_out=0.1"]
    places = [f"run.dir={texts.parent}/run", "parallelism=single", "schedule.batch=[{from_tokens: 0, sequences: 4}]"]
    run = check(compose(["experiment=smoke", *MODEL, *data, *sizes, *places, *overrides]))
    open_run_dir(run)
    trainer_config(run, StopWish()).on_first_step()
    (run.run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    return run


def held_out_file(texts: Path) -> Path:
    (folder,) = (texts.parent / "data").glob("*/web/held_out")
    names = (folder / "00000.ds.names").read_bytes()
    return next(file for file in texts.iterdir() if file.name.encode() in names)


@pytest.fixture
def fixed_tokenizer(texts: Path, tmp_path: Path) -> str:
    """Override: the tokenizer that a run of these texts trained, from now on whatever the texts are."""
    run = start(texts, f"run.dir={tmp_path}/other", f"data.dir={tmp_path}/other_data")
    return f"data.tokenizer={run.run_dir}/tokenizer"


@pytest.mark.parametrize("change", ["a text", "a new file", "a file that is gone"])
def test_another_text_is_refused_by_its_source_also_with_the_same_tokenizer(
    texts: Path, fixed_tokenizer: str, change: str
) -> None:
    run = start(texts, fixed_tokenizer)
    before = read_data_record(run.run_dir)
    training = next(file for file in sorted(texts.iterdir()) if file != held_out_file(texts))
    if change == "a file that is gone":
        training.unlink()
    else:
        (training if change == "a text" else texts / "new.txt").write_text("a dog. " * 300)
    with pytest.raises(
        ConfigError, match=r"source web: its text is another, .* restore it, or choose another run\.dir"
    ):
        start(texts, fixed_tokenizer)
    assert read_data_record(run.run_dir) == before


def test_another_held_out_text_is_refused(texts: Path, fixed_tokenizer: str) -> None:
    start(texts, fixed_tokenizer)
    changed = held_out_file(texts)
    changed.write_text(changed.read_text().replace("cat", "cow"))
    with pytest.raises(ConfigError, match="source web: its held-out text is another"):
        start(texts, fixed_tokenizer)


def test_another_text_with_a_tokenizer_of_its_own_is_refused_and_the_record_stays(texts: Path) -> None:
    run = start(texts)
    before = read_data_record(run.run_dir)
    for file in texts.iterdir():
        file.write_text("a completely different story about quick brown foxes. " * 60)
    with pytest.raises(ConfigError, match=r"source web: its text is another"):
        start(texts)
    assert read_data_record(run.run_dir) == before


def test_files_that_were_only_touched_are_the_same_text(texts: Path, fixed_tokenizer: str) -> None:
    start(texts, fixed_tokenizer)
    for file in texts.iterdir():
        file.touch()
    assert start(texts, fixed_tokenizer)


def test_a_run_that_has_made_no_step_may_begin_with_another_text(texts: Path, fixed_tokenizer: str) -> None:
    run = start(texts, fixed_tokenizer)
    (run.run_dir / "metrics.jsonl").unlink()
    (texts / "new.txt").write_text("a dog. " * 300)
    assert start(texts, fixed_tokenizer)


@pytest.fixture
def with_held_out(tmp_path: Path) -> list[str]:
    """Settings of a run of shards, one folder of them for training and one held out, behind a store that counts."""
    settings = [*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1), f"run.dir={tmp_path / 'run'}"]
    (tmp_path / "data/tokenizer/tokenizer.json").touch()  # this process has read it when it made the shards
    shutil.copytree(tmp_path / "data/shards", tmp_path / "data/held_out")
    (tmp_path / "run").mkdir()
    parts = [f"data.sources.random.{part}='counted://{tmp_path}/data/{folder}'" for part, folder in FOLDERS.items()]
    CountedStore.reads.clear()
    CountedStore.listings.clear()
    return [*settings, *parts, "validation.windows=5"]


FOLDERS = {"train": "shards", "held_out": "held_out"}


def start_of(settings: list[str]) -> tuple[PlanLoader, HeldOut]:
    """All that a rank does with its data until the first step has begun, without the engine."""
    config = trainer_config(check(compose(settings)), StopWish())
    config.tokenizer.build(tokenizer_path=config.hf_assets_path)
    loader = config.dataloader.build(dp_world_size=1, dp_rank=0, seq_len=32, local_batch_size=4)
    held_out = HeldOut(config.held_out, loss=config.loss.build(), batch_mesh=None, batch=4)
    config.on_first_step()
    next(iter(loader))
    return loader, held_out


def test_a_rank_opens_each_manifest_and_the_tokenizer_once(with_held_out: list[str], tmp_path: Path) -> None:
    opens = count_opens()
    start_of(with_held_out)
    reads = Counter(path for path, _ in CountedStore.reads)
    assert {path: count for path, count in reads.items() if path.endswith(".json")} == {
        f"{tmp_path}/data/{folder}/manifest.json": 1 for folder in FOLDERS.values()
    }
    assert sorted(CountedStore.listings) == [f"{tmp_path}/data/held_out", f"{tmp_path}/data/shards"]
    assert opens[f"{tmp_path}/data/tokenizer/tokenizer.json"] == 2  # read, and copied into the run's folder


def test_only_the_first_rank_of_a_node_asks_about_every_file(
    with_held_out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "1")
    opens = count_opens()
    start_of(with_held_out)
    assert not CountedStore.listings
    assert sum(count for path, count in opens.items() if path.endswith("/tokenizer.json")) == 1


def test_a_run_directory_gets_its_data_when_the_first_step_begins(tmp_path: Path) -> None:
    """The engine finds out whether they are those of the checkpoint that a run goes on from."""
    settings = [*small_settings(tmp_path / "data"), *mesh(shards=1, expert_ranks=1), f"run.dir={tmp_path / 'run'}"]
    (tmp_path / "run").mkdir()
    config = trainer_config(check(compose(settings)), StopWish())
    assert list((tmp_path / "run").iterdir()) == []
    config.on_first_step()
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["plan.json", "tokenizer"]
