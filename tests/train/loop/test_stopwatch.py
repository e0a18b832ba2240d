"""train/loop/stopwatch.py on a clock that the tests set."""

from __future__ import annotations

import pytest

from train.loop.stopwatch import Stopwatch


class Clock:
    now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("train.loop.stopwatch.time", clock)
    return clock


def test_a_lap_has_its_parts_and_a_total_that_holds_the_rest_too(clock: Clock) -> None:
    stopwatch = Stopwatch()
    clock.now_s += 1
    with stopwatch("data"):
        clock.now_s += 2
    clock.now_s += 4
    with stopwatch("optimizer"):
        clock.now_s += 8
    assert stopwatch.lap() == {"data": 2.0, "optimizer": 8.0, "total": 1.0 + 2.0 + 4.0 + 8.0}


def test_a_part_that_comes_again_adds_up(clock: Clock) -> None:
    stopwatch = Stopwatch()
    for seconds in (1, 2, 4):
        with stopwatch("data"):
            clock.now_s += seconds
    assert stopwatch.lap() == {"data": 7.0, "total": 7.0}


def test_a_part_within_a_part_counts_in_both(clock: Clock) -> None:
    stopwatch = Stopwatch()
    with stopwatch("forward_backward"):
        clock.now_s += 1
        with stopwatch("data"):
            clock.now_s += 2
    assert stopwatch.lap() == {"data": 2.0, "forward_backward": 3.0, "total": 3.0}


def test_a_lap_starts_where_the_last_one_ended(clock: Clock) -> None:
    stopwatch = Stopwatch()
    with stopwatch("data"):
        clock.now_s += 1
    stopwatch.lap()
    clock.now_s += 2
    assert stopwatch.lap() == {"total": 2.0}
    assert stopwatch.lap() == {"total": 0.0}
