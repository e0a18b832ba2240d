"""The picture of the optimizer study: what each comes to at each peak rate, and its way there at the best one."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from data_pipelines.base.canvas import COLORS, new_picture, smooth
from train.studies.optimizer_measures import Trial, at_best_rate, mean_by_rate, optimizers

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

SMOOTHED_STEPS = 5
"""Steps that a line averages over, as steps differ by which documents are in them."""
SHOWN_SHARE = 0.8
"""Of the steps: those at the end that the second panel shows. At the beginning all fall alike, by several nats."""


def draw(trials: list[Trial], *, title: str, path: Path) -> None:
    """Writes the picture as PNG."""
    with new_picture(1, 2, size=(13, 5), title=title, path=path, sharex=False) as panels:
        (by_rate, by_step), colors = panels[0], dict(zip(optimizers(trials), COLORS, strict=False))
        for optimizer, color in colors.items():
            _draw_rates(by_rate, trials, optimizer, color)
            _draw_training(by_step, at_best_rate(trials, optimizer), color)
        by_rate.set_xscale("log")
        rates = sorted({trial.rate for trial in trials})
        by_rate.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
        by_rate.set_xticks([], minor=True)
        by_rate.set_title("Held-out loss at the end, nats per token: seeds and their mean")
        by_rate.set_xlabel("peak learning rate")
        by_step.set_title("Training loss at the best rate, mean of the seeds")
        by_step.set_xlabel("step")
        for axes in (by_rate, by_step):
            axes.legend(loc="upper right")


def _draw_rates(axes: Axes, trials: list[Trial], optimizer: str, color: str) -> None:
    means = mean_by_rate(trials, optimizer)
    axes.plot(list(means), list(means.values()), color=color, label=optimizer)
    own = [trial for trial in trials if trial.optimizer == optimizer]
    axes.scatter([trial.rate for trial in own], [trial.validation for trial in own], color=color, s=18, alpha=0.7)


def _draw_training(axes: Axes, alike: list[Trial], color: str) -> None:
    losses = [fmean(row["loss"] for row in rows) for rows in zip(*(trial.rows for trial in alike), strict=True)]
    start = round((1 - SHOWN_SHARE) * len(losses))
    steps = [row["step"] for row in alike[0].rows]
    label = f"{alike[0].optimizer} {alike[0].rate:g}"
    axes.plot(steps[start:], smooth(losses, window=SMOOTHED_STEPS)[start:], color=color, label=label)
