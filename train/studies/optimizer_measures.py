"""What runs at several peak rates and seeds say of an optimizer. Pure: rows of metrics.jsonl -> table, conclusion."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

from train.metrics.row import Row
from train.studies.tables import last_validation, markdown

LAST_SHARE = 0.1
"""Of the steps: those at the end whose training losses are averaged."""
HEADING = {
    "run": "optimizer of the hidden matrices, and its peak rate; the table averages over the seeds",
    "validation": "held-out loss at the end, nats per token, mean over the sources",
    "spread": "of validation: that of the worst seed less that of the best",
    "loss": f"training, nats per token, last {LAST_SHARE:.0%} of the steps",
    "optimizer": "share of the time of a step that the optimizers take; runs share the machine",
}
"""Column -> what it shows."""


class Trial(NamedTuple):
    """A run of the study. Trials of one seed begin with the same weights and see the same batches."""

    optimizer: str
    rate: float
    """Peak learning rate."""
    seed: int
    rows: list[Row]

    @property
    def validation(self) -> float:
        """Held-out loss at the end."""
        value = last_validation(self.rows)
        assert value is not None  # the study refuses to run without
        return value


def table(trials: list[Trial]) -> str:
    """A line for each optimizer and rate, in the order of the trials."""
    return markdown(HEADING, (_line(trials, optimizer, rate) for optimizer, rate in _settings(trials)))


def conclusion(trials: list[Trial]) -> list[str]:
    """The best rate of each optimizer, whether it can be trusted, and how the others compare with the first."""
    lines = [_best_in_words(trials, optimizer) for optimizer in optimizers(trials)]
    first, *others = [at_best_rate(trials, optimizer) for optimizer in optimizers(trials)]
    return lines + [_difference(first, other) for other in others]


def optimizers(trials: list[Trial]) -> list[str]:
    """In the order of the trials."""
    return list(dict.fromkeys(trial.optimizer for trial in trials))


def mean_by_rate(trials: list[Trial], optimizer: str) -> dict[float, float]:
    """Peak rate, in ascending order -> held-out loss, mean over the seeds."""
    rates = sorted(rate for name, rate in _settings(trials) if name == optimizer)
    return {rate: fmean(trial.validation for trial in at(trials, optimizer, rate)) for rate in rates}


def at(trials: list[Trial], optimizer: str, rate: float) -> list[Trial]:
    """The trials of all seeds."""
    return [trial for trial in trials if (trial.optimizer, trial.rate) == (optimizer, rate)]


def at_best_rate(trials: list[Trial], optimizer: str) -> list[Trial]:
    """The trials of all seeds at the rate whose mean held-out loss is the least."""
    means = mean_by_rate(trials, optimizer)
    return at(trials, optimizer, min(means, key=lambda rate: means[rate]))


def _settings(trials: list[Trial]) -> Iterator[tuple[str, float]]:
    yield from dict.fromkeys((trial.optimizer, trial.rate) for trial in trials)


def _line(trials: list[Trial], optimizer: str, rate: float) -> tuple[str, ...]:
    alike = at(trials, optimizer, rate)
    seconds = [row["seconds"] for trial in alike for row in trial.rows]
    return (
        f"{optimizer} {rate:g}",
        f"{fmean(trial.validation for trial in alike):.3f}",
        f"{_spread(alike):.3f}",
        f"{fmean(_last_loss(trial.rows) for trial in alike):.3f}",
        f"{sum(part['optimizer'] for part in seconds) / sum(part['total'] for part in seconds):.1%}",
    )


def _spread(alike: list[Trial]) -> float:
    losses = [trial.validation for trial in alike]
    return max(losses) - min(losses)


def _last_loss(rows: list[Row]) -> float:
    return fmean(row["loss"] for row in rows[-max(1, round(LAST_SHARE * len(rows))) :])


def _best_in_words(trials: list[Trial], optimizer: str) -> str:
    means = mean_by_rate(trials, optimizer)
    best, *_ = alike = at_best_rate(trials, optimizer)
    words = f"{optimizer}: best at {best.rate:g}, {means[best.rate]:.3f} nats (spread {_spread(alike):.3f})"
    if best.rate in (min(means), max(means)):
        words += "; the best rate lies at the edge of those tried, so a better one may lie beyond"
    return words


def _difference(first: list[Trial], other: list[Trial]) -> str:
    """Seed by seed, which takes out what weights and batches do to both alike."""
    losses = {trial.seed: trial.validation for trial in other}
    differences = [trial.validation - losses[trial.seed] for trial in first]
    by_seed = ", ".join(f"{difference:+.3f}" for difference in differences)
    return (
        f"{first[0].optimizer} less {other[0].optimizer}, each at its best rate: {fmean(differences):+.3f} nats "
        f"(by seed {by_seed})"
    )
