"""What every picture shares: style, colours, the file, and the phases of a run in the background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from data_pipelines.base.files import whole_file

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

Phases = dict[str, tuple[int, int]]
"""Name -> the tokens seen before it and after it."""

INK, GREY, FAINT = "#24292F", "#6E7781", "#E6E8EB"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for all eyes
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 22,  # leaves a line for the names of the phases
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@contextmanager
def new_picture(
    num_rows: int,
    num_columns: int,
    *,
    size: tuple[float, float],
    title: str,
    path: Path,
    sharex: bool = True,
    sharey: bool | Literal["row"] = False,
) -> Iterator[Any]:
    """An array of empty panels in the style of this project; what has been drawn in the end is written as PNG.

    The file is there whole or not at all.
    """
    import matplotlib

    matplotlib.use("Agg")  # needs no display
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(num_rows, num_columns, figsize=size, sharex=sharex, sharey=sharey, squeeze=False)
        figure.suptitle(title, x=0.008, ha="left", fontsize=13)
        try:
            yield panels
            with whole_file(path, durable=False) as partial:
                figure.savefig(partial, format="png", dpi=150)
        finally:
            plt.close(figure)


def mark_phases(axes: Axes, phases: Phases, *, seen: int) -> None:
    """Shades every other phase and writes the names above; the x axis ends at `seen`."""
    axes.set_xlim(0, seen)
    for (name, (start, end)), shade in zip(phases.items(), cycle((0.0, 0.08)), strict=False):
        if start < seen:
            axes.axvspan(start, min(end, seen), color=GREY, alpha=shade, linewidth=0)
            middle = (start + min(end, seen)) / 2
            axes.text(middle, 1.02, name, transform=axes.get_xaxis_transform(), ha="center", color=GREY)


def smooth(values: list[float], *, window: int) -> list[float]:
    """Mean of the `window` values around each; fewer at the ends."""
    half = window // 2
    return [fmean(values[max(0, place - half) : place + half + 1]) for place in range(len(values))]
