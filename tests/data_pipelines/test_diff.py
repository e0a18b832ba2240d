"""python -m data_pipelines.diff: what another plan would change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.batches.record import record_data
from data_pipelines.diff import main
from data_pipelines.plan.make_plan import continued, cut_at
from data_pipelines.plan.plan import Plan
from data_pipelines.plan.ramp import Ramp, Stage
from data_pipelines.shards.prepared import Prepared
from tests.data_pipelines.plan.test_edits import MIX, plan_of


def run_dir(folder: Path, plan: Plan, tokenizer_dir: Path) -> str:
    folder.mkdir()
    ramp = Ramp(stages=(Stage(1, 0, 4),), num_windows=plan.num_windows)
    record_data(folder, plan, Prepared(tokenizer_dir=str(tokenizer_dir), sources={}), ramp)
    return str(folder)


def test_kept_dropped_and_new_tokens_add_up(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = plan_of()
    new = continued(old, plan_of(mix={**MIX, "first": {"a": 1, "b": 3}}, after=cut_at(old, 100)))
    runs = [run_dir(tmp_path / "old", old, tokenizer_dir), run_dir(tmp_path / "new", new, tokenizer_dir)]
    assert main([*runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first_difference"] == 100
    assert sum(row["kept"] for row in found["rows"]) == 800
    assert sum(row["dropped"] for row in found["rows"]) == sum(row["new"] for row in found["rows"]) == 600 * 8
    assert found["passes"]["b"][1] > found["passes"]["b"][0]
    assert sum(found["left_out"].values()) == 120 - 100  # the rest of the shuffle block of 24
    assert main([runs[0], f"{runs[1]}/plan.json"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the same up to window 100 (800 tokens)\n")
    assert "left to the next pass" in out
    assert main([runs[0], runs[0]]) == 0
    assert capsys.readouterr().out == "the plans are the same\n"


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == 2
    assert f"{tmp_path}/plan.json does not exist" in capsys.readouterr().err
