"""train/loop/soundness.py: data that are not those of the checkpoint are refused before a weight changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.base.errors import RunError
from data_pipelines.batches.account import FILE_NAME, Account, open_account
from data_pipelines.plan.plan import Plan, PlanPhase, PlanSource
from train.loop.soundness import check_redone, open_books
from train.schedule.timeline import Step

PLAN = Plan(
    seed=0,
    seq_len=16,
    block=4,
    sources=(PlanSource(name="a", num_windows=9),),
    phases=(PlanPhase(name="first", counts=(8,)),),
)
STEP = Step(number=2, first_window=2, num_windows=2, phase="first", lr_factor=1.0)


def saved(folder: Path, account: Account) -> Path:
    (folder / FILE_NAME).write_text(account.text)
    return folder


@pytest.fixture
def account() -> Account:
    return open_account(PLAN).add(1, "0" * 16, [[32]], 2)


def test_books_of_the_plan_are_gone_on_with_and_rows_after_them_are_remembered(
    account: Account, tmp_path: Path
) -> None:
    rows = [{"step": step, "tokens": 32 * step, "batch_digest": f"{step:016x}"} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    books = open_books(saved(tmp_path, account), tmp_path, PLAN, step=1, window=2)
    assert books == (account, {2: f"{2:016x}", 3: f"{3:016x}"})


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    books, _ = open_books(tmp_path, tmp_path, PLAN, step=1, window=2)
    assert (books.tokens, books.first_step, books.digest) == ({"first": {"a": 32}}, 2, "")


def test_tokens_that_the_plan_does_not_have_are_named(account: Account, tmp_path: Path) -> None:
    wrong = replace(account, tokens={"first": {"a": 48}})
    with pytest.raises(RunError, match=r"data\.json: phase first, source a: 48 tokens were served, the plan has 32"):
        open_books(saved(tmp_path, wrong), tmp_path, PLAN, step=1, window=2)


def test_a_step_that_is_trained_again_has_the_batch_that_it_had(tmp_path: Path) -> None:
    check_redone(STEP, "0" * 16, {2: "0" * 16}, tmp_path)
    check_redone(STEP, "0" * 16, {3: "1" * 16}, tmp_path)
    with pytest.raises(RunError, match=f"step 2 has digest {'0' * 16}; .* says {'1' * 16}"):
        check_redone(STEP, "0" * 16, {2: "1" * 16}, tmp_path)
