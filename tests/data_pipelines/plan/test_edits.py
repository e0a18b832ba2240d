"""Skips, appended edits, caps that are redistributed, changes of the sequence length: history stays as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.plan.budgets import redistributed
from data_pipelines.plan.ledger import ledger
from data_pipelines.plan.make_plan import continued, cut_at, make_plan, shared_windows
from data_pipelines.plan.plan import Plan, PlanSource
from data_pipelines.plan.skips import joined

PHASES = {"first": 400, "second": 300}
MIX = {"first": {"a": 3, "b": 1}, "second": {"a": 1, "b": 1}}
SOURCES = [PlanSource(name="a", num_windows=250, num_tokens=2001), PlanSource(name="b", num_windows=90, num_tokens=721)]


def plan_of(phases=PHASES, mix=MIX, sources=SOURCES, **settings) -> Plan:
    return make_plan(phases, sources=sources, mix=mix, **{"seed": 0, "seq_len": 8, "block": 24, **settings})


def windows(plan: Plan) -> list:
    return plan.windows(0, plan.num_windows)


# skips


def test_what_is_skipped_is_passed_over_and_nothing_else_changes():
    whole, plan = plan_of(), plan_of(skips=[(100, 130), (410, 420)])
    expected = windows(whole)
    assert windows(plan) == expected[:100] + expected[130:410] + expected[420:]
    assert windows(plan) == [plan.window(g) for g in range(plan.num_windows)]


def test_the_ledger_says_what_was_skipped():
    whole, plan = plan_of(), plan_of(skips=[(100, 130)])
    passed = Counter((window.phase, window.source) for window in windows(whole)[100:130])
    assert {(phase, source): count for phase, source, count in plan.skipped(plan.num_windows)} == passed
    assert not plan.skipped(100)
    full, book = ledger(whole, whole.num_windows), ledger(plan, plan.num_windows)
    assert {key: (full[key[0]][key[1]] - book[key[0]][key[1]]) // 8 for key in passed} == passed


def test_a_skip_of_later_windows_goes_on_from_a_checkpoint_before_it_and_from_no_other():
    old = plan_of()
    new = continued(old, plan_of(skips=[(100, 130)]))
    assert new.is_good_for(old.hash, 100)
    assert not new.is_good_for(old.hash, 101)
    more = continued(new, plan_of(skips=[(100, 130), (200, 210)]))
    assert more.is_good_for(new.hash, 170)  # 30 windows less are served by then
    assert not more.is_good_for(new.hash, 171)
    assert more.is_good_for(old.hash, 100)
    assert not more.is_good_for("another plan", 0)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([(5, 5)], r"data.skip: \[5, 5\] is no range \[first, end\) of the 700 windows"),
        ([(-1, 5)], r"\[-1, 5\] is no range"),
        ([(690, 701)], r"\[690, 701\] is no range"),
        ([(0, 400), (400, 700)], "passes over every window"),
    ],
)
def test_a_range_that_is_none_is_refused(ranges: list, words: str):
    with pytest.raises(ValueError, match=words):
        plan_of(skips=ranges)


def test_ranges_that_touch_are_one():
    assert joined([(20, 30), (0, 5), (4, 10), (30, 31)], 100) == ((0, 10), (20, 31))


# appended edits


@pytest.mark.parametrize("at", [24, 150, 399, 400, 401, 610])
def test_an_appended_mix_keeps_every_window_before_it(at: int):
    old = plan_of()
    mix = {"first": {"a": 1, "b": 3}, "second": {"a": 0, "b": 1}}
    new = continued(old, plan_of(mix=mix, after=cut_at(old, at)))
    assert windows(new)[:at] == windows(old)[:at]
    assert shared_windows(old, new) == at
    assert new.is_good_for(old.hash, at)
    assert not new.is_good_for(old.hash, at + 1)
    assert new.num_windows == old.num_windows
    rest = Counter((window.phase, window.source) for window in windows(new)[at:])
    if at < 400:
        assert abs(rest["first", "b"] - 0.75 * (400 - at)) < 1
    assert rest["second", "b"] == 700 - max(at, 400)


@pytest.mark.parametrize("at", [24, 150, 399, 610])
def test_no_window_comes_twice_in_an_epoch_over_an_edit(at: int):
    old = plan_of()
    new = plan_of(mix={"first": {"a": 1, "b": 3}, "second": {"a": 0, "b": 1}}, after=cut_at(old, at))
    places = [window[1:4] for window in windows(new)]
    assert len(set(places)) == len(places)


def test_an_edit_of_an_edit_goes_on_from_both():
    first = plan_of()
    second = continued(first, plan_of(mix={**MIX, "first": {"a": 1, "b": 1}}, after=cut_at(first, 100)))
    third = continued(second, plan_of(mix={**MIX, "first": {"a": 0, "b": 1}}, after=cut_at(second, 200)))
    assert windows(third)[:200] == windows(second)[:200]
    assert windows(third)[:100] == windows(first)[:100]
    assert third.is_good_for(second.hash, 200)
    assert third.is_good_for(first.hash, 100)
    assert not third.is_good_for(first.hash, 101)


def test_the_same_edit_again_is_the_same_plan():
    """As at every restart of a run that was edited."""
    old = plan_of()
    new = continued(old, plan_of(skips=[(100, 130)]))
    assert continued(new, plan_of(skips=[(100, 130)])) == new
    assert new.hash != old.hash


def test_a_source_may_come_and_none_may_go():
    old = plan_of()
    sources = [*SOURCES, PlanSource(name="aa", num_windows=70)]
    mix = {"first": {"a": 3, "b": 1}, "second": {"aa": 1}}
    new = continued(old, plan_of(mix=mix, sources=sources, after=cut_at(old, 100)))
    assert windows(new)[:100] == windows(old)[:100]
    with pytest.raises(ValueError, match="source 'b' was trained on, and is not among the sources any more"):
        plan_of(mix={"first": {"a": 1}, "second": {"a": 1}}, sources=SOURCES[:1], after=cut_at(old, 100))


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ({"other": 400, "second": 300}, "the run has trained first, second so far; schedule.phases must begin"),
        ({"first": 401, "second": 300}, "phase 'first' has trained 400 windows already, and would have 401"),
        ({"first": 400, "second": 50}, "phase 'second' has trained 100 windows already, and would have 50"),
    ],
)
def test_phases_that_are_over_keep_their_budgets(phases: dict[str, int], words: str):
    with pytest.raises(ValueError, match=words):
        plan_of(phases=phases, mix={phase: {"a": 1} for phase in phases}, after=cut_at(plan_of(), 500))


def test_plans_of_other_seeds_or_texts_share_nothing():
    old = plan_of()
    assert shared_windows(old, plan_of(seed=1)) == 0
    assert shared_windows(old, plan_of(seq_len=4)) == 0
    assert shared_windows(old, plan_of(sources=[replace(SOURCES[0], fingerprint="other"), SOURCES[1]])) == 0
    assert shared_windows(old, plan_of(mix={**MIX, "second": {"a": 1}})) == 400


# caps


def test_what_a_capped_source_cannot_give_comes_from_the_others_by_weight():
    """b has 90 windows: 90 of its 200 stay, 110 move; a and c share them 3 : 1, to 382.5 and 127.5."""
    weights = [Fraction(3), Fraction(2), Fraction(1)]
    assert redistributed(600, weights, [1000, 90, 1000]) == (383, 90, 127)
    assert redistributed(600, weights, [300, 90, 1000]) == (300, 90, 210)  # a is used up in turn
    assert redistributed(600, weights, [300, 90, 200]) is None


def test_caps_hold_over_phases_and_budgets_stay_exact():
    plan = plan_of(max_epochs=2.5, when_used_up="redistribute")
    used = [sum(counts) for counts in zip(*(phase.counts for phase in plan.phases), strict=True)]
    assert used == [475, 225]  # b has no more
    assert [phase.num_windows for phase in plan.phases] == [400, 300]
    with pytest.raises(ValueError, match="its sources together have"):
        plan_of(max_epochs=1, when_used_up="redistribute")
    with pytest.raises(ValueError, match=r"or set data\.when_used_up=redistribute"):
        plan_of(max_epochs=2.5)


# sequence length


def test_no_token_comes_twice_in_an_epoch_over_a_change_of_length():
    """Windows of 8, then of 32, then of 16: of each source, target tokens are counted in every epoch."""
    phases = {"first": 240, "second": 12, "third": 30}
    mix = {phase: {"a": 2, "b": 1} for phase in phases}
    plan = plan_of(phases, mix, seq_lens={"second": 32, "third": 16})
    seen: dict[tuple[str, int], np.ndarray] = {}
    for window in windows(plan):
        counts = seen.setdefault((window.source, window.epoch), np.zeros(2001, int))
        counts[window.index * window.seq_len : (window.index + 1) * window.seq_len] += 1
    assert {window.seq_len for window in windows(plan)} == {8, 16, 32}
    assert max(counts.max() for counts in seen.values()) == 1
    assert max(epoch for _, epoch in seen) >= 1
    assert windows(plan) == [plan.window(g) for g in range(plan.num_windows)]
    book = ledger(plan, plan.num_windows)
    assert [sum(row.values()) for row in book.values()] == [1920, 384, 480]


def test_a_length_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="seq_len=8 of 'training' does not divide 12, the longest"):
        plan_of(seq_lens={"second": 12})


def test_unused_options_leave_the_hash_as_it_was():
    assert plan_of(seq_lens={"second": 8}).hash == plan_of(skips=[]).hash == plan_of().hash
