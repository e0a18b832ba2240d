"""What a rank owns of a parameter, as DCP sees it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from train.optim.orthogonal.owned import OwnedMatrices


def experts() -> Tensor:
    return torch.arange(4 * 2 * 3, dtype=torch.float32).view(4, 2, 3)


def owned(experts_EMN: Tensor, indices: list[int], *, first: int = 0) -> OwnedMatrices:
    return OwnedMatrices(experts_EMN, {i: experts_EMN[first + i].clone() for i in indices}, first=first)


def test_its_pieces_lie_where_the_matrices_lie_in_the_whole():
    pieces = owned(experts(), [0, 1], first=2)
    assert pieces.size() == (4, 2, 3)
    chunks = pieces.__create_chunk_list__()
    assert [tuple(chunk.offsets) for chunk in chunks] == [(2, 0, 0), (3, 0, 0)]
    assert {tuple(chunk.sizes) for chunk in chunks} == {(1, 2, 3)}


def test_a_matrix_is_one_piece():
    (chunk,) = OwnedMatrices.zeros(torch.ones(2, 3), [0], first=0).__create_chunk_list__()
    assert (tuple(chunk.offsets), tuple(chunk.sizes)) == ((0, 0), (2, 3))


@pytest.mark.filterwarnings("ignore:torch.distributed is")  # one process, as this test wants it
def test_other_owners_find_their_matrices_in_a_checkpoint(tmp_path: Path):
    save({"m": owned(experts(), [0, 1, 2, 3])}, checkpoint_id=tmp_path)
    some, whole = OwnedMatrices.zeros(experts(), [1], first=2), torch.zeros(4, 2, 3)
    load({"m": some}, checkpoint_id=tmp_path)
    load({"m": whole}, checkpoint_id=tmp_path)
    assert torch.equal(some.matrices[1], experts()[3])
    assert torch.equal(whole, experts())


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_what_was_saved_as_a_tensor_is_found_as_well(tmp_path: Path):
    """Every rank kept its rows of the momentum until 2026-11."""
    save({"m": experts()}, checkpoint_id=tmp_path)
    some = OwnedMatrices.zeros(experts(), [0, 3], first=0)
    load({"m": some}, checkpoint_id=tmp_path)
    assert torch.equal(torch.stack([some.matrices[0], some.matrices[3]]), experts()[[0, 3]])


def test_a_copy_has_matrices_of_its_own():
    pieces = owned(experts(), [1])
    twin = copy.deepcopy(pieces)
    pieces.matrices[1].zero_()
    assert torch.equal(twin.matrices[1], experts()[1])


def test_nothing_is_computed_with_the_whole():
    with pytest.raises(TypeError, match="OwnedMatrices"):
        _ = owned(experts(), [0]) + 1
