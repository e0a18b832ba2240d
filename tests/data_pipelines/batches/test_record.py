from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data_pipelines.base import files
from data_pipelines.batches.record import FILE_NAME, read_data_record, record_data
from data_pipelines.plan.make_plan import make_plan
from data_pipelines.plan.plan import Plan, PlanSource
from data_pipelines.plan.ramp import Ramp, Stage
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.tokenizer.encoder import TextEncoder

RAMP = Ramp(stages=(Stage(1, 0, 2), Stage(3, 4, 3)), num_windows=9)


def make() -> Plan:
    return make_plan(
        {"first": 6, "second": 3},
        sources=[PlanSource(name="a", num_windows=5, fingerprint="f"), PlanSource(name="b", num_windows=4)],
        mix={"first": {"a": 2, "b": 1}, "second": {"b": 1}},
        seed=7,
        seq_len=16,
        block=2,
    )


@pytest.fixture
def prepared(tokenizer_dir: Path) -> Prepared:
    sources = {"a": ShardSource(train="s3://bucket/a", held_out="data/a"), "b": ShardSource(train="data/b")}
    return Prepared(tokenizer_dir=str(tokenizer_dir), sources=sources)


def test_what_is_read_is_what_the_run_was_built_from(tmp_path: Path, prepared: Prepared, tokenizer_dir: Path):
    record_data(tmp_path, make(), prepared, RAMP)
    record = read_data_record(tmp_path)
    assert record.plan == make()
    assert [record.plan.window(g) for g in range(9)] == [make().window(g) for g in range(9)]
    assert record.hash == make().hash
    assert record.ramp == RAMP
    assert [record.ramp.windows(step) for step in (1, 2, 3, 4)] == [range(2), range(2, 4), range(4, 7), range(7, 9)]
    assert record.tokenizer_hash == TextEncoder(tokenizer_dir).hash


def test_places_mean_the_same_from_another_folder(
    tmp_path: Path, prepared: Prepared, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    record_data(Path("run"), make(), prepared, RAMP)
    monkeypatch.chdir("/")
    assert read_data_record(tmp_path / "run").prepared == Prepared(
        tokenizer_dir=str(tokenizer_dir),
        sources={
            "a": ShardSource(train="s3://bucket/a", held_out=f"{tmp_path}/data/a"),
            "b": ShardSource(train=f"{tmp_path}/data/b"),
        },
    )


def test_a_run_of_an_earlier_version_is_told_what_writes_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"plan\.json does not exist: .* starting the run again writes it"):
        read_data_record(tmp_path)


def test_a_changed_plan_is_found_by_its_hash(tmp_path: Path, prepared: Prepared):
    record_data(tmp_path, make(), prepared, RAMP)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    content["plan"]["seed"] = 8
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"is damaged: its plan has hash .*, not {make().hash} as recorded"):
        read_data_record(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null"])
def test_a_garbled_record_is_refused_in_a_sentence(tmp_path: Path, text: str):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(DataError, match=r"plan\.json is damaged \(.*\); starting the run again writes it"):
        read_data_record(tmp_path)


def test_the_old_record_stays_where_the_new_one_cannot_be_finished(
    tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
):
    record_data(tmp_path, make(), prepared, RAMP)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "flush", no_space)
    with pytest.raises(OSError, match="No space left"):
        record_data(tmp_path, make(), prepared, Ramp(stages=(Stage(1, 0, 9),), num_windows=9))
    assert read_data_record(tmp_path).ramp == RAMP
    assert os.listdir(tmp_path) == [FILE_NAME]
