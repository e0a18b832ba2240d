"""What the ranks, and rank 0 for all, do to save a checkpoint and to go on from it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem, SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset

from tests.bench_scale.large import SHARDS, Started, timed
from tests.measured import status_bytes
from train.checkpoint.copies import copied_dims, own_names, owners
from train.checkpoint.save import Saver, Written, write_directory
from train.checkpoint.storage import CheckpointStorage
from train.optim.base import named
from train.optim.muon import Muon

TO_SAVE = ("a rank: plan of the first save, s", "rank 0: what it gets, unpickled, s", "rank 0: directory, s")
TO_READ = (
    "a rank: directory from rank 0, unpickled, s",
    "a rank: plan to read, s",
    "a rank: which of it are its own, s",
)
GROWN = "rank 0: grown by, bytes"


def checkpoint_figures(started: Started, num_ranks: int) -> dict[str, float]:
    """Figure -> its value, in the order in which they are shown."""
    figures: dict[str, float] = {}
    states, muon = states_of(started)
    with TemporaryDirectory() as folder:
        saver, planner = Saver(), DefaultSavePlanner()
        planner.set_up_planner(states)
        figures["a rank: values in its state"] = len(planner.state_dict)
        plan, figures[TO_SAVE[0]] = timed(lambda: saver.plan(planner.state_dict))
        _, figures["a rank: plan of the next, s"] = timed(lambda: saver.plan(planner.state_dict))
        figures["rank 0: shards that it writes"] = sum(item.tensor_data is not None for item in plan.items)
        sent = [pickle.dumps(written) for written in written_by_others(planner.state_dict, muon, num_ranks)]
        figures["rank 0: what it gets, bytes"] = sum(map(len, sent))
        own = written_by_rank_0(plan)
        before = status_bytes("VmRSS")
        received, figures[TO_SAVE[1]] = timed(lambda: [own, *map(pickle.loads, sent)])
        _, figures[TO_SAVE[2]] = timed(lambda: write_directory(states, Path(folder), received))
        figures[GROWN] = status_bytes("VmHWM") - before
        figures["rank 0: directory, bytes"] = (Path(folder) / ".metadata").stat().st_size
        figures |= load_figures(planner.state_dict, Path(folder))
    return figures


def load_figures(values: dict[str, Any], folder: Path) -> dict[str, float]:
    """Of a start that goes on from the checkpoint."""
    figures: dict[str, float] = {}
    metadata, figures["rank 0: directory read, s"] = timed(CheckpointStorage(folder).read_metadata)
    sent = pickle.dumps(metadata)
    metadata, figures[TO_READ[0]] = timed(lambda: pickle.loads(sent))
    planner = DefaultLoadPlanner()
    planner.set_up_planner(values, metadata)
    plan, figures[TO_READ[1]] = timed(planner.create_local_plan)
    names, figures[TO_READ[2]] = timed(lambda: own_names(values))
    own = [item for item in plan.items if item.dest_index.fqn in names]
    figures["rank 0: shards that it holds"] = count_shards(plan.items)
    figures["rank 0: shards that it reads"] = count_shards(own)
    return figures


def count_shards(items: Sequence[ReadItem]) -> int:
    return sum(item.type == LoadItemType.TENSOR for item in items)


def states_of(started: Started) -> tuple[dict[str, Any], Muon]:
    """What rank 0 saves: weights and every optimizer's state; and the optimizer that plans."""
    for optimizer in started.optimizers:
        for group in () if optimizer is started.muon else optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter] = moments_of_adamw(parameter)
    others = {"dataloader": {"next_window": 1}, "lr_scheduler": {"last_epoch": 1}, "train_state": {"step": 1}}
    return {"optimizer": started.optimizers.state_dict(), **others, **started.model.state_dict()}, started.muon


def moments_of_adamw(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def written_by_rank_0(plan: SavePlan) -> Written:
    sizes = [tuple(item.tensor_data.chunk.sizes) if item.tensor_data else () for item in plan.items]
    return Written([written(item.index, rank=0) for item in plan.items], sizes)


def written_by_others(values: Mapping[str, Any], muon: Muon, num_ranks: int) -> Iterator[Written]:
    """In the order of ranks: replica by replica, shard by shard."""
    found = owners(values)
    matrices = {
        name: shards_of(param)
        for group in muon.param_groups
        for name, param in named(group)
        if isinstance(param, DTensor)
    }
    shards = {name: shards_of(values[name]) for name in found}
    for rank in range(1, num_ranks):
        replica, shard = divmod(rank, SHARDS)
        own = [(name, *shards[name][shard]) for name, owner in found.items() if owner == replica]
        own = [(name, sizes, offset) for name, sizes, offset in own if 0 not in sizes]
        own += momenta_of(muon, matrices, replica=replica, shard=shard)
        results = [written(MetadataIndex(name, torch.Size(offset)), rank=rank) for name, _, offset in own]
        yield Written(results, [sizes for _, sizes, _ in own])


def momenta_of(
    muon: Muon, shards: Mapping[str, list[tuple[tuple[int, ...], tuple[int, ...]]]], *, replica: int, shard: int
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """(name, sizes, offset) of each matrix that one rank owns. Every grid of experts has the plan of this one."""
    names = list(shards)
    for grid, rounds in muon.plan.items():
        for round_ in rounds:
            for matrix in round_.of_owner(shard=shard % grid.shards.size, replica=replica):
                name = names[matrix.param]
                sizes, offset = shards[name][shard]
                number = (offset[0] + matrix.index,) if len(sizes) == 3 else ()
                one = (1,) * len(number)
                yield (
                    f"optimizer.state.{name}.momentum_buffer",
                    (*one, matrix.rows, matrix.cols),
                    (*number, 0, 0),
                )


def shards_of(tensor: DTensor) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(sizes, offset) of each shard of a tensor, in the order of the ranks that hold them."""
    copied = copied_dims(tensor)
    mesh = [1 if dim in copied else size for dim, size in enumerate(tensor.device_mesh.shape)]
    place = partial(_compute_local_shape_and_global_offset, tensor.shape, mesh, placements=tensor.placements)
    return [place(my_coordinate=list(coordinate)) for coordinate in product(*map(range, mesh))]


def written(index: MetadataIndex, *, rank: int) -> WriteResult:
    return WriteResult(index, 2**20, _StorageInfo(f"__{rank}_0.distcp", 2**33, 2**20))
