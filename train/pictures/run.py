"""The picture of a run: loss, learning rate and batch, MaxVio of each layer, validation, over one token axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.base.canvas import COLORS, GREY, Phases, mark_phases, new_picture, smooth
from train.metrics.row import Losses, Row, rates
from train.schedule.amounts import format_tokens

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def draw(rows: list[Row], phases: Phases, *, title: str, path: Path) -> None:
    """Writes the picture as PNG."""
    with new_picture(2, 2, size=(13, 8), title=title, path=path) as panels:
        for axes, draw_panel in zip(panels.flat, PANELS, strict=True):
            mark_phases(axes, phases, seen=rows[-1]["tokens"])
            draw_panel(axes, rows)
        for axes in panels[1]:
            axes.set_xlabel("tokens seen")
            axes.xaxis.set_major_formatter(lambda tokens, _position: format_tokens(int(tokens)))


def _draw_loss(axes: Axes, rows: list[Row]) -> None:
    tokens, losses = _tokens(rows), [row["loss"] for row in rows]
    window = 2 * (len(rows) // 50) + 1  # odd: as many values before as after
    axes.set_title("Training loss, nats per token")
    axes.plot(tokens, losses, color=COLORS[0], alpha=0.3, linewidth=1.0, label="each step", **_alone(rows))
    mean = smooth(losses, window=window)
    axes.plot(tokens, mean, color=COLORS[0], label=f"mean of {window} steps", **_alone(rows))
    axes.legend(loc="upper right")


def _draw_rates(axes: Axes, rows: list[Row]) -> None:
    axes.set_title("Learning rate and global batch")
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    by_name = {name: [rates(row)[name] for row in rows] for name in rates(rows[-1])}
    peaks = {name: max(values) for name, values in by_name.items()}
    colors = cycle((COLORS[0], *COLORS[2:]))  # the other is the batch's
    for name, color in zip(sorted(peaks, key=peaks.__getitem__, reverse=True), colors, strict=False):
        _draw_labelled(axes, _tokens(rows), by_name[name], name=name, color=color)
    axes.set_ylim(0, 1.15 * max(peaks.values()) or 1.0)  # all rates may be 0

    batch_axes = axes.twinx()
    batch_axes.set_ylabel("sequences in a step", color=COLORS[1])
    batches = [row["global_batch"] for row in rows]
    _draw_labelled(
        batch_axes, _tokens(rows), batches, name="batch (right axis)", color=COLORS[1], drawstyle="steps-pre"
    )
    batch_axes.set_ylim(0, 1.6 * max(batches))  # keeps it below the plateau of the rate
    batch_axes.grid(visible=False)
    batch_axes.spines["right"].set_visible(True)


def _draw_balance(axes: Axes, rows: list[Row]) -> None:
    from matplotlib import colormaps

    axes.set_title("MaxVio of each MoE layer (0: all experts equally loaded)")
    layers = list(rows[-1]["max_violation_by_layer"])
    lines: list[Line2D] = []
    for place, layer in enumerate(layers):
        violations = [row["max_violation_by_layer"][layer] for row in rows]
        color = colormaps["viridis"](0.92 * place / max(1, len(layers) - 1))
        style: Any = {"color": color, "linewidth": 1.2, **_alone(rows)}
        lines += axes.plot(_tokens(rows), violations, label=f"layer {layer}", **style)
    axes.set_ylim(bottom=0)
    every = -(-len(lines) // 8)  # a deep model: every layer is drawn, a few are named
    axes.legend(handles=lines[::every], loc="upper right", ncols=2)


def validations(rows: list[Row]) -> list[tuple[int, int, Losses]]:
    """(step, tokens, source -> loss) of each measurement; that of the untrained model comes first, as step 0."""
    start = [(0, 0, losses) for row in rows[:1] if (losses := row.get("initial_validation"))]
    return start + [(row["step"], row["tokens"], losses) for row in rows if (losses := row.get("validation"))]


def _draw_validation(axes: Axes, rows: list[Row]) -> None:
    axes.set_title("Validation loss of each source, nats per token")
    measured = validations(rows)
    if not measured:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_yticks([])
        return
    tokens = [tokens for _, tokens, _ in measured]
    lines: list[Line2D] = []
    style: Any = {"marker": "o", "markersize": 4.5, "clip_on": False}
    for source, color in zip(measured[-1][-1], cycle(COLORS), strict=False):
        lines += axes.plot(tokens, [losses[source] for *_, losses in measured], color=color, label=source, **style)
    axes.legend(handles=lines, loc="upper right")


PANELS = (_draw_loss, _draw_rates, _draw_balance, _draw_validation)


def _draw_labelled(axes: Axes, xs: list[int], ys: Sequence[float], *, name: str, color: str, **style: Any) -> None:
    """A line with its name above it, half way along."""
    axes.plot(xs, ys, color=color, **_alone(xs), **style)
    place, side = len(xs) // 2, "right" if len(xs) == 1 else "center"  # one point is at the right edge
    axes.annotate(name, (xs[place], ys[place]), (0, 5), textcoords="offset points", ha=side, color=color)


def _alone(points: Sequence[Any]) -> dict[str, Any]:
    """Style of a line of one point, which is seen by its marker only, at the edge of the picture."""
    return {"marker": "o", "clip_on": False} if len(points) == 1 else {}


def _tokens(rows: list[Row]) -> list[int]:
    return [row["tokens"] for row in rows]
