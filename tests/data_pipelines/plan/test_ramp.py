from __future__ import annotations

import pytest

from data_pipelines.plan.ramp import Ramp, Stage


def test_each_step_has_its_windows_and_the_last_one_takes_what_is_left():
    """Steps 1, 2 of 4 windows: 0-3, 4-7; then of 6: 8-13, 14-19, and two windows are left: 20, 21."""
    ramp = Ramp(stages=(Stage(1, 0, 4), Stage(3, 8, 6)), num_windows=22)
    assert ramp.num_steps == 5
    assert [ramp.windows(step) for step in range(1, 6)] == [
        range(0, 4), range(4, 8), range(8, 14), range(14, 20), range(20, 22),
    ]  # fmt: skip
    assert [ramp.step_of(window) for window in (0, 3, 4, 7, 8, 13, 14, 21)] == [1, 1, 2, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("step", [-1, 0, 6])
def test_a_step_that_the_run_does_not_have_is_refused(step: int):
    ramp = Ramp(stages=(Stage(1, 0, 4), Stage(3, 8, 6)), num_windows=22)
    with pytest.raises(ValueError, match=rf"step {step} is outside of 1\.\.5"):
        ramp.windows(step)
