from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import xxhash

from data_pipelines.batches.account import FILE_NAME, START, Account, account_problems, link, open_account, read_account
from data_pipelines.plan.plan import Plan, PlanPhase, PlanSource
from data_pipelines.shards.manifest import DataError

PLAN = Plan(
    seed=0,
    seq_len=16,
    block=4,
    sources=(PlanSource(name="a", num_windows=9), PlanSource(name="b", num_windows=9)),
    phases=(PlanPhase(name="first", counts=(3, 1)), PlanPhase(name="second", counts=(4, 0))),
)


def after(steps: int) -> Account:
    """Two windows a step."""
    account = open_account(PLAN)
    for step in range(1, steps + 1):
        tokens = [[0, 0], [0, 0]]
        for g in range(2 * step - 2, 2 * step):
            window = PLAN.window(g)
            tokens[["first", "second"].index(window.phase)][["a", "b"].index(window.source)] += 16
        account = account.add(step, f"{step:016x}", tokens, 2 * step)
    return account


def test_the_chain_is_the_hash_of_the_chain_the_step_and_the_digest() -> None:
    first = xxhash.xxh3_128_hexdigest(f"{'0' * 32} 1 {1:016x}".encode())
    assert after(1).chain == first
    assert after(2).chain == xxhash.xxh3_128_hexdigest(f"{first} 2 {2:016x}".encode())


def test_another_order_of_the_same_batches_is_another_chain() -> None:
    assert link(link(START, 1, "a"), 2, "b") != link(link(START, 1, "b"), 2, "a")


def test_books_of_what_was_served_agree_with_the_plan_at_each_step() -> None:
    for steps in range(5):
        assert account_problems(after(steps), PLAN, step=steps, next_window=2 * steps) == []
    assert after(4).tokens == {"first": {"a": 48, "b": 16}, "second": {"a": 64, "b": 0}}


def test_a_window_that_was_served_twice_or_of_another_source_is_named() -> None:
    account = after(2)
    account = replace(account, tokens={"first": {"a": 64, "b": 0}, "second": {"a": 0, "b": 0}})
    assert account_problems(account, PLAN, step=2, next_window=4) == [
        "phase first, source a: 64 tokens were served, the plan has 48",
        "phase first, source b: 0 tokens were served, the plan has 16",
    ]
    (problem,) = account_problems(after(2), PLAN, step=3, next_window=4)
    assert problem.startswith("the books are of step 2 and window 4, the weights of step 3")


def test_books_of_an_earlier_version_begin_at_the_plan_and_keep_their_chain_open() -> None:
    account = open_account(PLAN, step=2, next_window=4)
    assert (account.first_step, account.chain, account.tokens["first"]) == (3, START, {"a": 48, "b": 16})


def test_books_come_back_from_a_checkpoint_and_damage_is_named(tmp_path: Path) -> None:
    assert read_account(tmp_path) is None
    path = tmp_path / FILE_NAME
    for account in (after(3), open_account(PLAN)):
        path.write_text(account.text)
        assert read_account(tmp_path) == account
    for text in (after(3).text[:-9], after(3).text.replace(f"{3:016x}", f"{4:016x}"), "[]"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"data\.json is damaged"):
            read_account(tmp_path)
