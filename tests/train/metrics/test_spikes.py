"""train/metrics/spikes.py: what stands out, and what only wobbles."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import pytest

from train.metrics.row import Row
from train.metrics.spikes import GRAD_NORM, LOSS, MIN_STEPS, WINDOW, SpikeAlarm, is_spike


def alarms(losses: list[float], norms: list[float] | None = None) -> dict[int, str]:
    """Step -> what was said, of a run with these figures."""
    alarm = SpikeAlarm()
    steps = enumerate(zip(losses, norms or [1.0] * len(losses), strict=True), 1)
    rows = [cast(Row, {"step": step, "loss": loss, "grad_norm": norm}) for step, (loss, norm) in steps]
    return {row["step"]: text for row in rows if (text := alarm.observe(row))}


def falling(num_steps: int) -> list[float]:
    """Losses of a young run with noise: from 9.1 down to about 5, as in the smoke run."""
    noise = random.Random(0)
    return [5 + 4.1 * math.exp(-step / 30) + noise.gauss(0, 0.08) for step in range(num_steps)]


def test_a_worked_case() -> None:
    # median 2.0, median absolute deviation 0.1: sigma 0.148, so 8 sigma are 1.186
    before = [1.9, 2.0, 2.1, 2.0] * 10 + [1.8, 2.2] * 10
    assert is_spike(3.2, before, LOSS)
    assert not is_spike(3.1, before, LOSS)


def test_a_young_run_falls_without_an_alarm() -> None:
    assert alarms(falling(400)) == {}


def test_a_spike_of_the_loss_is_told_once_with_both_figures() -> None:
    losses = falling(300)
    losses[200:260] = [7.5] * 60
    told = alarms(losses)
    assert list(told) == [201]
    assert "loss 7.500, median of the steps before 5.0" in told[201]


def test_a_spike_that_lasts_is_told_again_after_a_window_at_the_earliest() -> None:
    steps = list(alarms([2.0] * 100 + [9.0] * 40 + [2.0] * 200 + [9.0]))
    assert steps == [101, 341]
    assert steps[1] - steps[0] >= WINDOW


def test_a_spike_of_the_gradient_norm_is_a_factor() -> None:
    noise = random.Random(1)
    norms = [math.exp(noise.gauss(0, 0.25)) for _ in range(150)]
    assert alarms([2.0] * 150, norms) == {}
    assert "gradient norm 20, median of the steps before" in alarms([2.0] * 151, [*norms, 20.0])[151]


def test_a_steady_figure_may_wobble() -> None:
    assert not is_spike(2.29, [2.0] * 100, LOSS)
    assert not is_spike(math.log(2.9), [0.0] * 100, GRAD_NORM)


def test_nothing_is_compared_with_too_few_steps() -> None:
    assert not is_spike(100.0, [1.0] * (MIN_STEPS - 1), LOSS)
    assert is_spike(100.0, [1.0] * MIN_STEPS, LOSS)


@pytest.mark.parametrize("norm", [0.0, 1e-40])
def test_a_gradient_of_nothing_has_a_norm_too(norm: float) -> None:
    figures: dict[str, Any] = {"losses": [2.0] * 30, "norms": [norm] * 30}
    assert alarms(**figures) == {}
