from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.batches.record import record_data
from data_pipelines.plan.make_plan import cut_at, make_plan
from data_pipelines.plan.plan import PlanSource
from data_pipelines.plan.ramp import Ramp, Stage
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.show import epochs, look_at, main, mixture
from tests.data_pipelines.batches.test_loader import TIMELINE, plan_of
from tests.data_pipelines.conftest import MakeShards, opened
from tests.data_pipelines.plan.test_edits import MIX
from tests.data_pipelines.plan.test_edits import plan_of as edited_plan

PNG = b"\x89PNG"


def test_a_phase_that_an_edit_cuts_has_two_parts_of_the_mixture_and_one_name(
    prepared: Prepared, tmp_path: Path, tokenizer_dir: Path
) -> None:
    old = edited_plan()
    plan = edited_plan(mix={**MIX, "first": {"a": 1, "b": 3}}, after=cut_at(old, 100))
    assert mixture(plan)["a"] == [0.75, 0.25, 0.5]
    assert epochs(plan)["a"] == [0.0, 90 / 250, 165 / 250, 315 / 250]  # 120 windows are used up by the 100 of the cut
    ramp = Ramp(stages=(Stage(1, 0, 4),), num_windows=plan.num_windows)
    record_data(tmp_path, plan, Prepared(tokenizer_dir=str(tokenizer_dir), sources={}), ramp)
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "data.png").read_bytes().startswith(PNG)


@pytest.fixture
def prepared(make_shards: MakeShards, tokenizer_dir: Path) -> Prepared:
    uri = make_shards("web", [[5] * 29 + [1], [6] * 9 + [1]], [[7] * 59 + [1]])
    return Prepared(tokenizer_dir=str(tokenizer_dir), sources={"web": ShardSource(train=uri)})


def test_documents_that_windows_cut_and_labels_that_are_masked_by_hand(prepared: Prepared) -> None:
    """Documents 0-29 | 30-39 | 40-99, windows of 16: edges at 16, 32, 48, 64, 80, 96; two ends have a next document."""
    found = look_at(opened(prepared).train["web"], 16)
    assert found.lengths.tolist() == [30, 10, 60]
    assert found.cut == 1.0
    assert found.masked == 2 / 100
    assert look_at(opened(prepared).train["web"], 30).cut == 1 / 3  # edges at 30, which begins a document, 60 and 90


def test_a_large_source_is_looked_at_in_parts(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.show.PARTS", 2)
    monkeypatch.setattr("data_pipelines.show.PART_TOKENS", 45)
    assert look_at(opened(prepared).train["web"], 16).lengths.tolist() == [10]


def test_mixture_and_epochs_of_17t_tokens_are_closed_forms() -> None:
    sources = [PlanSource(name=name, num_windows=windows) for name, windows in (("a", 10**9), ("b", 2 * 10**8))]
    phases = {"first": 1_500_000_000, "second": 500_000_000}
    mix = {"first": {"a": 3, "b": 1}, "second": {"b": 1}}
    plan = make_plan(phases, sources=sources, mix=mix, seed=0, seq_len=8192, block=12_288)
    assert mixture(plan) == {"a": [0.75, 0.0], "b": [0.25, 1.0]}
    assert epochs(plan) == {"a": [0.0, 1.125, 1.125], "b": [0.0, 1.875, 4.375]}


@pytest.mark.parametrize("by_file", [False, True])
def test_a_picture_is_drawn_of_a_run_or_its_plan(
    by_file: bool, prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_data(tmp_path, plan_of(prepared, mix=None), prepared, TIMELINE.ramp)
    out = tmp_path / "a.png" if by_file else tmp_path / "data.png"
    assert main([str(tmp_path / "plan.json"), "--out", str(out)] if by_file else [str(tmp_path)]) == 0
    assert out.read_bytes().startswith(PNG)
    assert "web: 16.00 epochs, 100.00% of documents cut, 2.00% of targets masked" in capsys.readouterr().out


def test_the_plan_is_drawn_without_its_shards(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = PlanSource(name="web", num_windows=10**9)
    plan = make_plan({"all": 2 * 10**9}, sources=[source], mix=None, seed=0, seq_len=8192, block=12_288)
    ramp = Ramp(stages=(Stage(1, 0, 12_288),), num_windows=2 * 10**9)
    record_data(tmp_path, plan, prepared, ramp)
    (tmp_path / "web").rename(tmp_path / "gone")
    assert main([str(tmp_path)]) == 0
    assert "source web: its documents are not drawn" in capsys.readouterr().out
    assert (tmp_path / "data.png").read_bytes().startswith(PNG)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "plan.json does not exist" in capsys.readouterr().err
