"""The spike alarm: a loss or a gradient norm far above what it was in the steps before. Rows go in, a text comes out.

Robust, because the figures of early training fall fast and some are wild: the yardstick is the median of the last
WINDOW steps and their median absolute deviation, which a few outliers do not move. What is above both a number of
deviations and an amount that matters is a spike. It watches; nothing in a run follows from it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from train.metrics.row import Row

WINDOW = 100
"""Steps before, with which one is compared; and from one alarm to the next, so that a plateau is told once."""
MIN_STEPS = 20
"""Steps before the first comparison."""
MAD_TO_SIGMA = 1.4826
"""Of a normal distribution."""


class Rule(NamedTuple):
    deviations: float
    """Standard deviations above the median, estimated from the median absolute deviation."""
    least: float
    """And at least this far above it, so that a very steady figure may still wobble."""


LOSS = Rule(deviations=8, least=0.3)
"""Nats per token."""
GRAD_NORM = Rule(deviations=8, least=math.log(3))
"""Of its logarithm: norms are spread by factors."""


def is_spike(value: float, before: Sequence[float], rule: Rule) -> bool:
    """Whether `value` stands out upwards from the values `before` it. False where those are too few."""
    if len(before) < MIN_STEPS:
        return False
    middle = median(before)
    sigma = MAD_TO_SIGMA * median(abs(value - middle) for value in before)
    return value > middle + max(rule.deviations * sigma, rule.least)


class SpikeAlarm:
    """Watches one row after the other."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._log_norms: deque[float] = deque(maxlen=WINDOW)
        self._quiet_until = 0

    def observe(self, row: Row) -> str | None:
        """What to warn of after this step, if anything."""
        loss, log_norm = row["loss"], math.log(max(row["grad_norm"], 1e-30))
        spikes = []
        if is_spike(loss, self._losses, LOSS):
            spikes.append(f"loss {loss:.3f}, median of the steps before {median(self._losses):.3f}")
        if is_spike(log_norm, self._log_norms, GRAD_NORM):
            usual = math.exp(median(self._log_norms))
            spikes.append(f"gradient norm {row['grad_norm']:.3g}, median of the steps before {usual:.3g}")
        self._losses.append(loss)
        self._log_norms.append(log_norm)
        if not spikes or row["step"] < self._quiet_until:
            return None
        self._quiet_until = row["step"] + WINDOW
        return f"spike: {'; '.join(spikes)}"
