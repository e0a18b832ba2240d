from __future__ import annotations

import numpy as np
import pytest
import torch

from data_pipelines.batches.windows import IGNORE, split_window, window_hash


def test_the_drawing_in_the_module_is_right():
    # a b E | c d e E | f g   with a .. g = 10 .. 16 and E = 1
    tokens = np.array([10, 11, 1, 12, 13, 14, 1, 15, 16])
    inputs, positions, labels = split_window(tokens, [3, 7])
    assert inputs.tolist() == [10, 11, 1, 12, 13, 14, 1, 15]
    assert positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    assert labels.tolist() == [11, 1, IGNORE, 13, 14, 1, IGNORE, 16]


def test_without_edges_the_window_is_one_document():
    inputs, positions, labels = split_window(np.arange(5), [])
    assert (inputs.tolist(), positions.tolist(), labels.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4])


def test_an_edge_before_the_last_target_masks_it_and_moves_no_position():
    _, positions, labels = split_window(np.array([5, 6, 1, 7]), [3])
    assert positions.tolist() == [0, 1, 2]
    assert labels.tolist() == [6, 1, IGNORE]


@pytest.mark.parametrize("seed", range(5))
def test_positions_and_labels_agree_with_a_loop(seed: int):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 100, 65)
    edges = np.unique(rng.integers(1, 65, 12))
    _, positions, labels = split_window(tokens, edges)
    position, expected = 0, []
    for i in range(64):
        position = 0 if i in edges else position + (i > 0)
        expected.append((position, IGNORE if i + 1 in edges else tokens[i + 1]))
    assert list(zip(positions, labels, strict=True)) == expected


def test_the_ignored_label_is_the_one_of_torch():
    labels = torch.tensor([IGNORE, 1])
    loss = torch.nn.functional.cross_entropy(torch.zeros(2, 4), labels, reduction="sum")
    assert loss.item() == pytest.approx(np.log(4))


def test_a_window_hash_is_pinned_and_depends_on_number_and_order():
    tokens = np.arange(10)
    assert window_hash(3, tokens) == window_hash(3, tokens.astype(np.uint16)) == 3_252_780_204_773_106_747
    assert len({window_hash(3, tokens), window_hash(4, tokens), window_hash(3, tokens[::-1])}) == 3
