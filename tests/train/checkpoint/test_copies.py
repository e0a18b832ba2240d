"""train/checkpoint/copies.py: every shard belongs to one rank, and all ranks agree which, without asking."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from train.blueprint.sharded import pretended_ranks
from train.checkpoint.copies import Place, own_names, owners, place_of

SIZES = {"a": 8, "b": 4, "c": 4, "d": 2, "e": 6}


def states(rank: int) -> dict[str, Any]:
    """On 2 replicas x 2 shards."""
    mesh = init_device_mesh("cpu", (2, 2))
    placed = [Replicate(), Shard(0)]
    return {name: DTensor.from_local(torch.zeros(size, 3), mesh, placed) for name, size in SIZES.items()} | {"step": 3}


def test_the_largest_goes_first_each_to_the_place_with_the_fewest_bytes() -> None:
    with pretended_ranks(4):
        # a (8) to 0, e (6) to 1, b (4) to 1 with 6, c (4) to 0 with 8, d (2) to 1 with 10
        assert owners(states(0)) == {"a": 0, "e": 1, "b": 1, "c": 0, "d": 1}


def test_every_shard_has_one_owner_and_the_rest_is_rank_0s() -> None:
    own = Counter[tuple[str, int]]()
    for rank in range(4):
        with pretended_ranks(4, rank=rank):
            values = states(rank)
            assert place_of(values["a"]) == Place(rank // 2, 2)
            own.update((name, rank % 2) for name in own_names(values))
    assert own == Counter({**{(name, shard): 1 for name in SIZES for shard in (0, 1)}, ("step", 0): 1})


def test_places_along_two_dimensions_are_told_apart() -> None:
    places = []
    for rank in range(8):
        with pretended_ranks(8, rank=rank):
            mesh = init_device_mesh("cpu", (2, 2, 2))
            tensor = DTensor.from_local(torch.zeros(2), mesh, [Replicate(), Shard(0), Replicate()])
            places.append(place_of(tensor).number)
    assert places == [0, 1, 0, 1, 2, 3, 2, 3]
