"""What the rows of a run say of its balance. Pure: rows of metrics.jsonl -> the table of the study.

A run of the study is a sequence of phases; with each one the mixture of its data changes at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from statistics import fmean

from train.metrics.row import Row
from train.studies.tables import last_validation, markdown

EVEN = 1.0
"""A step counts as even where the MaxVio of every layer is below this: no expert has twice its share."""
WARM_UP_STEPS = 20
"""Steps at the start that no rule is blamed for: every one starts from biases of 0."""
HEADING = {
    "run": "rule, and the largest change of a bias per step (linear has no largest)",
    "MaxVio": "mean over the layers and the last half of each phase",
    "worst": f"largest MaxVio of any layer after step {WARM_UP_STEPS}",
    "steps to even": f"steps of each phase until the MaxVio of every layer is below {EVEN:g}",
    "dead": "experts without a token, all layers, mean over the steps after the warm-up",
    "reversals": "share of the biases that turn round in a step, last half of each phase",
    "recoil": "how much of its last change a bias takes back in a step, mean over the same steps",
    "loss": "training, nats per token, last half of each phase",
    "validation": "at the end, nats per token, mean over the sources",
    "seconds": "of all steps; runs share the machine",
}
"""Column -> what it shows."""


def table(runs: Iterable[tuple[str, list[Row]]]) -> str:
    """A line for each run, given as its name and its rows."""
    return markdown(HEADING, ((name, *figures(rows)) for name, rows in runs))


def figures(rows: list[Row]) -> tuple[str, ...]:
    """The cells of a run, after its name."""
    settled = settled_rows(rows)
    warm = [row for row in rows if row["step"] > WARM_UP_STEPS] or rows
    return (
        f"{fmean(mean_panel(row, 'max_violation') for row in settled):.2f}",
        f"{max(row['max_violation'] for row in warm):.1f}",
        ", ".join("never" if steps is None else str(steps) for steps in steps_to_even(rows)),
        f"{fmean(row['dead_experts'] for row in warm):.1f}",
        f"{fmean(mean_panel(row, 'bias_reversals') for row in settled):.0%}",
        f"{fmean(mean_panel(row, 'bias_recoil') for row in settled):.4f}",
        f"{fmean(row['loss'] for row in settled):.3f}",
        "-" if (validation := last_validation(rows)) is None else f"{validation:.3f}",
        f"{sum(row['seconds']['total'] for row in rows):.0f}",
    )


def mean_panel(row: Row, name: str) -> float:
    """A panel of balance, mean over the layers. Every step of a study has them (metrics.panels_every=1)."""
    assert "by_layer" in row
    return fmean(row["by_layer"][name].values())


def by_phase(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each phase, in order."""
    return {phase: list(steps) for phase, steps in groupby(rows, key=lambda row: row["phase"])}


def settled_rows(rows: list[Row]) -> list[Row]:
    """The last half of each phase: what a rule comes to, when the change of the mixture is some time ago."""
    return [row for steps in by_phase(rows).values() for row in steps[len(steps) // 2 :]]


def steps_to_even(rows: list[Row]) -> list[int | None]:
    """For each phase, its first step (from 1) in which every layer is used evenly; None where there is none."""
    return [
        next((place for place, row in enumerate(steps, 1) if row["max_violation"] < EVEN), None)
        for steps in by_phase(rows).values()
    ]
