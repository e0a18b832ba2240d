from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.audit import main
from data_pipelines.batches.account import open_account
from data_pipelines.batches.record import record_data
from data_pipelines.shards.prepared import Prepared, ShardSource
from tests.data_pipelines.batches.test_loader import SIZES, TIMELINE, L, loader_of, plan_of
from tests.data_pipelines.conftest import MakeShards, random_documents


@pytest.fixture
def run_dir(tmp_path: Path, make_shards: MakeShards, tokenizer_dir: Path) -> Path:
    """As the trainer leaves it after 8 steps, with checkpoints of steps 3 and 6."""
    uris = {name: make_shards(name, random_documents(500, seed=seed)) for name, seed in (("a", 1), ("b", 2))}
    sources = {name: ShardSource(train=uri) for name, uri in uris.items()}
    prepared = Prepared(tokenizer_dir=str(tokenizer_dir), sources=sources)
    folder, plan = tmp_path / "run", plan_of(prepared)
    folder.mkdir()
    record_data(folder, plan, prepared, TIMELINE.ramp)
    loader = loader_of(prepared)
    stream, account, rows = iter(loader), open_account(plan), []
    for step, size in enumerate(SIZES, 1):
        for _ in range(size // 8):
            next(stream)
        digest = f"{loader.pop_digest():016x}"
        account = account.add(step, digest, loader.pop_tokens().tolist(), loader.next_window)
        rows.append({"step": step, "batch_digest": digest, "batch_chain": account.chain})
        if step in (3, 6):
            (folder / f"checkpoint/step-{step}").mkdir(parents=True)
            (folder / f"checkpoint/step-{step}/data.json").write_text(account.text)
    write(folder, rows)
    return folder


def write(run_dir: Path, rows: list[dict]) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_was_trained_on_its_plan_passes(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out == (
        f"{run_dir}: steps 1 to 8, {96 * L:,} tokens: the shards give what 8 rows and 2 checkpoints recorded\n"
    )
    assert main([str(run_dir), "--from-step", "4", "--to-step", "7", "--workers", "1"]) == 0
    assert "steps 4 to 7, 896 tokens: the shards give what 4 rows and 1 checkpoints" in capsys.readouterr().out


def test_several_workers_find_the_same(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.audit.STEPS_AT_ONCE", 3)
    assert main([str(run_dir), "--workers", "2"]) == 0


def test_the_first_step_that_differs_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(run_dir)
    for step in (7, 5):
        rows[step - 1]["batch_digest"] = "0" * 16
    write(run_dir, rows)
    assert main([str(run_dir), "--workers", "1"]) == 1
    assert "step 5: the shards give digest" in capsys.readouterr().err


def test_a_row_that_was_left_out_or_rewritten_shows_in_the_chain(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read(run_dir)
    rows[4]["batch_chain"] = rows[3]["batch_chain"]
    write(run_dir, rows)
    assert main([str(run_dir), "--workers", "1"]) == 1
    assert "step 5: the shards give chain" in capsys.readouterr().err
    write(run_dir, [*rows[:4], *rows[5:]])
    assert main([str(run_dir), "--workers", "1"]) == 0
    assert "1 steps have no row" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["step", "tokens", "chain"])
def test_books_that_are_not_those_of_the_plan_are_named(
    run_dir: Path, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_dir / "checkpoint/step-6/data.json"
    books = json.loads(path.read_text())
    books["tokens"]["first"]["a"] += 16 * (changed == "tokens")
    books["step"] += changed == "step"
    books["chain"] = "0" * 32 if changed == "chain" else books["chain"]
    path.write_text(json.dumps(books))
    assert main([str(run_dir), "--workers", "1"]) == 1
    assert "step 6: " in capsys.readouterr().err


def test_a_flipped_bit_in_a_shard_is_data_that_are_not_what_was_recorded(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a/00000.ds"
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    assert main([str(run_dir), "--workers", "1"]) == 1
    assert "a/00000.ds: bytes 64 to 128 differ" in capsys.readouterr().err


def test_rows_of_an_earlier_version_are_compared_without_a_chain(run_dir: Path) -> None:
    write(run_dir, [{key: row[key] for key in ("step", "batch_digest")} for row in read(run_dir)])
    assert main([str(run_dir), "--workers", "1"]) == 0


@pytest.mark.parametrize("steps", [["--from-step", "9"], ["--from-step", "5", "--to-step", "4"], ["--to-step", "99"]])
def test_steps_that_are_not_there_are_refused(
    run_dir: Path, steps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_dir), *steps]) == 2
    assert "has finished steps 1 to 8" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["0", "-1", "x"])
def test_a_number_is_a_number(run_dir: Path, wrong: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(run_dir), f"--workers={wrong}"])
    assert end.value.code == 2


def test_a_folder_that_is_no_run_is_a_mistake_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "plan.json does not exist" in capsys.readouterr().err
