"""train/pictures/loads.py: the numbers behind the colours, and the file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from data_pipelines.base.canvas import new_picture
from train.pictures.loads import draw_loads, fill_panel, log2_loads, size_of

COUNTS_LE = torch.tensor([[2, 4, 8, 2], [0, 8, 4, 4]])  # mean 4


def test_a_cell_is_the_load_over_the_mean_of_its_layer_in_doublings() -> None:
    assert log2_loads(COUNTS_LE).tolist() == [[-1.0, 0.0, 1.0, -1.0], [None, 1.0, 0.0, 0.0]]  # None: no token


def test_the_picture_of_a_small_and_of_a_large_model_is_written_whole(tmp_path: Path) -> None:
    for counts_LE in (COUNTS_LE, torch.ones(54, 256, dtype=torch.int64)):
        layer_ids = [str(layer) for layer in range(6, 6 + len(counts_LE))]
        draw_loads(counts_LE, layer_ids, title="step 1", path=tmp_path / "loads.png")
        height, width, _ = imread(tmp_path / "loads.png").shape
        assert width > 500
        assert height > 200
    assert [file.name for file in tmp_path.iterdir()] == ["loads.png"]


def test_an_expert_without_a_token_is_black(tmp_path: Path) -> None:
    pictures = []
    for name, counts_LE in {"alive": COUNTS_LE.clamp(min=1), "dead": COUNTS_LE}.items():
        draw_loads(counts_LE, ["1", "2"], title="step 1", path=tmp_path / name)
        pictures.append((imread(tmp_path / name, format="png")[..., :3] == 0).all(-1).sum())
    assert pictures[1] > pictures[0] + 1000  # a cell of some ten thousand pixels


@pytest.mark.parametrize("num_layers", [1, 4, 54])
@pytest.mark.parametrize("num_experts", [4, 16, 256])
def test_nothing_that_is_written_is_cut_off(tmp_path: Path, num_layers: int, num_experts: int) -> None:
    counts_LE = torch.arange(num_layers * num_experts).view(num_layers, num_experts)
    size = size_of(counts_LE)
    title = "step 4,000,000: load of each expert"
    with new_picture(1, 1, size=size, title=title, path=tmp_path / "loads.png") as panels:
        (axes,) = panels.flat
        fill_panel(axes, counts_LE, [str(layer) for layer in range(6, 6 + num_layers)])
        axes.figure.draw_without_rendering()
        left, bottom, right, top = axes.figure.get_tightbbox().extents
        assert min(left, bottom) >= 0
        assert right <= size[0]
        assert top <= size[1]
        bar = axes.figure.axes[1]
        ticks = [label.get_window_extent() for label in bar.get_yticklabels()]
        assert not any(lower.overlaps(upper) for lower, upper in pairwise(ticks))
