from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.batches.record import record_data
from data_pipelines.explain import explain_ledger, explain_window, main, step_digest
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.tokenizer.encoder import TextEncoder
from tests.data_pipelines.batches.test_loader import TIMELINE, L, loader_of, plan_of
from tests.data_pipelines.conftest import MakeShards, opened


@pytest.fixture
def prepared(make_shards: MakeShards) -> Prepared:
    uri = make_shards("web", [[5] * 29 + [1], [6] * 9 + [1]], [[7] * 59 + [1]])
    return Prepared(tokenizer_dir="", sources={"web": ShardSource(train=uri)})


def test_a_window_is_traced_to_its_documents(prepared: Prepared):
    """Tokens 0-29 | 30-39 | 40-99: window 1 is 16-31, window 2 is 32-47, window 4 is 64-79."""
    plan, sources = plan_of(prepared, mix=None), opened(prepared).train
    number = {plan.window(g).index: g for g in range(48) if plan.window(g).epoch == 0}
    by_index = {index: list(explain_window(plan, sources, g)) for index, g in number.items()}
    assert by_index[1][0] == f"window {number[1]}: first, web, epoch 0, index 1"
    assert [line.split() for line in by_index[1][1:]] == [
        ["14", "tokens", "web-0-0", "(shard", "00000,", "document", "0)"],
        ["2", "tokens", "web-0-1", "(shard", "00000,", "document", "1)"],
    ]
    assert [line.split()[:3] for line in by_index[2][1:]] == [["8", "tokens", "web-0-1"], ["8", "tokens", "web-1-0"]]
    assert [line.split()[:3] for line in by_index[4][1:]] == [["16", "tokens", "web-1-0"]]


def test_the_digest_is_the_one_of_the_loader(prepared: Prepared):
    plan, sources = plan_of(prepared, mix=None), opened(prepared).train
    loader = loader_of(prepared, mix=None, batch=8)
    stream = iter(loader)
    for first in (0, 8):
        next(stream)
        assert step_digest(plan, sources, range(first, first + 8)) == loader.pop_digest() % 2**64


def test_the_ledger_is_told_in_tokens_and_passes(prepared: Prepared):
    plan = plan_of(prepared, mix=None)
    assert list(explain_ledger(plan, 54)) == [
        "so far, in target tokens:",
        f"  first: web {48 * L}",
        f"  second: web {6 * L}",
        "  passes: web 9.00",  # 100 tokens are 6 windows
    ]


@pytest.fixture
def run_dir(tmp_path: Path, prepared: Prepared, tokenizer_dir: Path) -> Path:
    """As the trainer leaves it, with the digest of step 2."""
    folder = tmp_path / "run"
    folder.mkdir()
    plan = plan_of(prepared, mix=None)
    record_data(folder, plan, replace(prepared, tokenizer_dir=str(tokenizer_dir)), TIMELINE.ramp)
    digest = step_digest(plan, opened(prepared).train, TIMELINE.ramp.windows(2))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "batch_digest": f"{digest:016x}"}) + "\n")
    return folder


def test_a_step_is_explained_from_the_run_directory_alone(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(run_dir), "--step", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("window")] == [f"{g}:" for g in range(8, 16)]
    assert lines[-1].endswith("the same as training recorded")
    assert main([str(run_dir), "--step", "9"]) == 2
    assert "step 9 is outside of 1..8" in capsys.readouterr().err


def test_the_text_is_marked_where_the_window_begins_and_ends(
    tmp_path: Path, make_shards: MakeShards, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
):
    encoder = TextEncoder(tokenizer_dir)
    documents = list(encoder.encode(["the cat sat on the mat", "x = 7\nif x > 3:", "the log and the dog"]))
    web = ShardSource(train=make_shards("w", documents))
    prepared = Prepared(tokenizer_dir=str(tokenizer_dir), sources={"web": web})
    plan = plan_of(prepared, mix=None)
    record_data(tmp_path, plan, prepared, TIMELINE.ramp)
    assert main([str(tmp_path), "--step", "1", "--text"]) == 0
    shown = capsys.readouterr().out
    tokens = [token for document in documents for token in document]
    for g in range(8):
        index = plan.window(g).index
        text = encoder.decode(tokens[index * L : (index + 1) * L])
        part = shown.split(f"window {g:,}: ")[1].split("\nwindow ")[0]
        lines = [line.removeprefix("  | ") for line in part.splitlines() if line.startswith("  | ")]
        assert "".join(lines) == text.replace("\n", "")
        assert ("begins inside of a document" in part) == (index > 0 and tokens[index * L - 1] != encoder.eos_id)


def test_text_of_another_tokenizer_is_not_made_up(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    path = run_dir / "plan.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"tokenizer_hash": "0" * 64}))
    assert main([str(run_dir), "--step", "2", "--text"]) == 2
    assert "the tokenizer that the run was started with is not there any more" in capsys.readouterr().err


def test_data_that_are_gone_are_named_with_the_place_where_they_were(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "web").rename(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(run_dir), "--step", "2"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: source web, which the run read from {tmp_path}/web: ")
    assert "manifest.json is missing" in captured.err
    assert not captured.out
    assert sorted(tmp_path.rglob("*")) == before  # nothing is prepared


def test_other_tokens_in_the_place_of_the_old_ones_are_refused(
    run_dir: Path, make_shards: MakeShards, capsys: pytest.CaptureFixture[str]
):
    make_shards("web", [[5] * 99 + [1]])
    assert main([str(run_dir), "--step", "2"]) == 2
    assert "web holds other tokens than when the run read them; put the old ones back" in capsys.readouterr().err


def test_a_digest_that_is_not_the_recorded_one_is_damage(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 2, "batch_digest": "0123456789abcdef"}) + "\n")
    assert main([str(run_dir), "--step", "2"]) == 1
    assert "is not the 0123456789abcdef that training recorded for step 2" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path), "--step", "2"]) == 2
    assert "starting the run again writes it" in capsys.readouterr().err


def test_shards_without_names_are_explained_by_number(
    prepared: Prepared, run_dir: Path, capsys: pytest.CaptureFixture[str]
):
    """datatrove and others write none."""
    folder = Path(prepared.sources["web"].train)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        del shard["files"][".ds.names"]
        (folder / f"{shard['name']}.ds.names").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(run_dir), "--step", "2"]) == 0
    assert "  document 0  (shard 00001, document 0)" in capsys.readouterr().out


def test_help_says_what_the_command_does(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Which documents, sources and phase were in a step of a run?" in capsys.readouterr().out
