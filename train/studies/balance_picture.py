"""The picture of the balance study: a column for each speed, a line for each rule, steps along the bottom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_pipelines.base.canvas import COLORS, GREY, Phases, mark_phases, new_picture, smooth
from train.metrics.row import Row
from train.studies.balance_measures import by_phase, mean_panel

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

RULE_COLORS = {"none": GREY, "sign": COLORS[0], "linear": COLORS[1], "smebu": COLORS[2]}
OTHER_COLOR = COLORS[3]
"""Of a rule that is not named there."""
SMOOTHED_STEPS = 5
"""Steps that a line of the picture averages over, as steps differ by which documents are in them."""


class Drawn(NamedTuple):
    """A run to draw."""

    kind: str
    speed: float | None
    """None: no rule moves the biases, so the run belongs into every column."""
    rows: list[Row]


def draw(runs: list[Drawn], *, title: str, path: Path) -> None:
    """Writes the picture as PNG. Losses are compared with those of the first run."""
    speeds = list(dict.fromkeys(run.speed for run in runs if run.speed is not None)) or [None]
    baseline = runs[0]
    size = (4 + 5 * len(speeds), 14)
    with new_picture(len(PANELS), len(speeds), size=size, title=title, path=path, sharey="row") as panels:
        for speed, column in zip(speeds, panels.T, strict=True):
            shown = [run for run in runs if run.speed in (speed, None)]
            for axes, (heading, draw_panel) in zip(column, PANELS.items(), strict=True):
                mark_phases(axes, phase_steps(baseline.rows), seen=baseline.rows[-1]["step"])
                heading = heading.format(baseline=baseline.kind)
                axes.set_title(heading if speed is None else f"{heading}, speed {speed:g}")
                draw_panel(axes, shown, baseline)
            column[-1].set_xlabel("step")


def phase_steps(rows: list[Row]) -> Phases:
    """Phase -> the steps before it and after it."""
    return {phase: (steps[0]["step"] - 1, steps[-1]["step"]) for phase, steps in by_phase(rows).items()}


def _draw_violation(axes: Axes, runs: list[Drawn], _baseline: Drawn) -> None:
    """On a logarithmic axis: a collapse is ten times what a rule leaves. The shade reaches to the worst layer."""
    for run in runs:
        mean, worst = (
            _values(run, lambda row: mean_panel(row, "max_violation")),
            _values(run, lambda row: row["max_violation"]),
        )
        _draw_line(axes, run, mean)
        axes.fill_between(
            _steps(run), mean, worst, color=RULE_COLORS.get(run.kind, OTHER_COLOR), alpha=0.15, linewidth=0
        )
    axes.margins(y=0.15)  # above all lines, for the legend
    axes.legend(loc="upper right", ncols=len(runs))
    _scale_by_factors(axes)


def _draw_recoil(axes: Axes, runs: list[Drawn], _baseline: Drawn) -> None:
    """Biases that no rule moves have none."""
    for run in runs:
        if run.speed is not None:
            _draw_line(axes, run, _values(run, lambda row: mean_panel(row, "bias_recoil")))
    _scale_by_factors(axes)


def _draw_loss(axes: Axes, runs: list[Drawn], _baseline: Drawn) -> None:
    for run in runs:
        _draw_line(axes, run, _values(run, _loss))


def _draw_loss_difference(axes: Axes, runs: list[Drawn], baseline: Drawn) -> None:
    """Runs are drawn on the same batches, so their difference has little of the noise of their losses."""
    for run in runs:
        pairs = zip(_values(run, _loss), _values(baseline, _loss), strict=False)  # a run may have been stopped early
        _draw_line(axes, run, [loss - other for loss, other in pairs])


PANELS: dict[str, Callable[[Axes, list[Drawn], Drawn], None]] = {
    "MaxVio, from the mean of the layers to the worst": _draw_violation,
    "Recoil of the biases": _draw_recoil,
    "Training loss, nats per token": _draw_loss,
    "Training loss less that of {baseline}": _draw_loss_difference,
}
"""Title -> what draws it: axes, the runs of its column, the first run of all."""


def _draw_line(axes: Axes, run: Drawn, values: list[float]) -> None:
    axes.plot(_steps(run)[: len(values)], values, color=RULE_COLORS.get(run.kind, OTHER_COLOR), label=run.kind)


def _scale_by_factors(axes: Axes) -> None:
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")


def _steps(run: Drawn) -> list[int]:
    return [row["step"] for row in run.rows]


def _loss(row: Row) -> float:
    return row["loss"]


def _values(run: Drawn, measure: Callable[[Row], float]) -> list[float]:
    return smooth([measure(row) for row in run.rows], window=SMOOTHED_STEPS)
