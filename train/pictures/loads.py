"""The loads of all experts as a picture: one row a layer, one cell an expert.

L = MoE layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from data_pipelines.base.canvas import new_picture

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

LIMIT = 4.0
"""Loads of this many times the mean, and of its inverse, have the two extreme colours."""


def draw_loads(counts_LE: Tensor, layer_ids: Sequence[str], *, title: str, path: Path) -> None:
    """Writes the picture as PNG. counts_LE: tokens of a step that each expert got."""
    with new_picture(1, 1, size=size_of(counts_LE), title=f"{title}: load of each expert", path=path) as panels:
        (axes,) = panels.flat
        fill_panel(axes, counts_LE, layer_ids)


def size_of(counts_LE: Tensor) -> tuple[float, float]:
    """Width and height of the picture, in inches."""
    num_layers, num_experts = counts_LE.shape
    return 5 + min(num_experts, 256) / 24, 2.4 + num_layers / 6


def fill_panel(axes: Axes, counts_LE: Tensor, layer_ids: Sequence[str]) -> None:
    """Draws the loads and their colour bar. What the colours mean stands above, where any height leaves room for it."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    num_layers, _ = counts_LE.shape
    colors = colormaps["RdBu_r"].with_extremes(bad="black")
    limit = np.log2(LIMIT)
    image = axes.imshow(log2_loads(counts_LE), cmap=colors, vmin=-limit, vmax=limit, aspect="auto")
    axes.grid(visible=False)
    axes.set_title("load as a multiple of the layer's mean; black: no token", fontsize=10, fontweight="normal", pad=6)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    every = -(-num_layers // 20)
    axes.set_yticks(range(0, num_layers, every), layer_ids[::every])
    bar = axes.figure.colorbar(image, ax=axes, extend="both")
    ticks = np.linspace(-limit, limit, 5)
    bar.set_ticks(ticks, labels=[f"{2.0**tick:g}x" for tick in ticks])


def log2_loads(counts_LE: Tensor) -> np.ma.MaskedArray:
    """log2(load / mean load), float64 [L, E]; masked where there is no load."""
    loads_LE = counts_LE.double()
    relative_LE = (loads_LE / loads_LE.mean(-1, keepdim=True)).numpy()
    return np.ma.log2(np.ma.masked_equal(relative_LE, 0.0))
