"""train/watchdog/pulse.py: which limit holds when."""

from __future__ import annotations

import pytest

from train.watchdog.config import WatchdogConfig
from train.watchdog.pulse import START, Pulse, limit_s

CONFIG = WatchdogConfig(stall_after_s=10, start_after_s=100, save_after_s=1000)


@pytest.mark.parametrize(
    ("activity", "is_first_step", "expected"),
    [
        (START, True, 100),
        ("forward_backward", True, 100),  # it compiles
        ("forward_backward", False, 10),
        ("data", False, 10),
        ("checkpoint", False, 1000),
        ("validation", False, 1000),
        ("validation", True, 1000),
    ],
)
def test_start_up_the_first_step_and_saving_have_limits_of_their_own(
    activity: str, is_first_step: bool, expected: float
) -> None:
    assert limit_s(CONFIG, activity, is_first_step=is_first_step) == expected


def test_the_first_step_is_over_when_the_second_begins() -> None:
    pulse = Pulse()
    assert (pulse.activity, pulse.step, pulse.is_first_step) == (START, 0, True)
    pulse.begin_step(41)
    assert (pulse.step, pulse.is_first_step) == (41, True)
    pulse.begin_step(42)
    assert not pulse.is_first_step


def test_each_activity_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("train.watchdog.pulse.time.monotonic", lambda: clock[0])
    pulse = Pulse()
    clock[0] = 130.0
    assert pulse.seconds() == 30
    pulse.enter("data")
    clock[0] = 132.0
    assert (pulse.activity, pulse.seconds()) == ("data", 2)


def test_a_rank_looks_ten_times_within_the_limit_and_at_least_every_10_s() -> None:
    assert CONFIG.period_s == 1
    assert WatchdogConfig().period_s == 10
