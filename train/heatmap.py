"""The loads of all experts as a picture: one row a layer, one cell an expert.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from train.picture import STYLE

LIMIT = 4.0
"""Loads of this many times the mean, and of its inverse, have the two extreme colours."""


def draw_loads(counts_LE: Tensor, layer_ids: Sequence[str], *, title: str, path: Path) -> None:
    """Writes the picture as PNG, whole or not at all. counts_LE: tokens of a step that each expert got."""
    import matplotlib

    matplotlib.use("Agg")  # needs no display
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    num_layers, num_experts = counts_LE.shape
    limit = np.log2(LIMIT)
    ticks = np.linspace(-limit, limit, 5)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(5 + min(num_experts, 256) / 24, 2 + num_layers / 6))
        colors = plt.get_cmap("RdBu_r").with_extremes(bad="black")
        image = axes.imshow(log2_loads(counts_LE), cmap=colors, vmin=-limit, vmax=limit, aspect="auto")
        axes.set_title(f"{title}: load of each expert", pad=10)
        axes.set_xlabel("expert")
        axes.set_ylabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        every = -(-num_layers // 20)
        axes.set_yticks(range(0, num_layers, every), layer_ids[::every])
        bar = figure.colorbar(image, ax=axes, extend="both", label="load over the mean of the layer (black: none)")
        bar.set_ticks(ticks, labels=[f"{2.0**tick:g}x" for tick in ticks])
        partial = path.with_name(path.name + ".tmp")
        figure.savefig(partial, format="png", dpi=100)
        plt.close(figure)
    os.replace(partial, path)


def log2_loads(counts_LE: Tensor) -> np.ma.MaskedArray:
    """log2(load / mean load), float64 [L, E]; masked where there is no load."""
    loads_LE = counts_LE.double()
    relative_LE = (loads_LE / loads_LE.mean(-1, keepdim=True)).numpy()
    return np.ma.log2(np.ma.masked_equal(relative_LE, 0.0))
