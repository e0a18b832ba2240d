"""What a rank, and rank 0 for all, has to do for a run of Trinity Large on 128, 512 and 2,048 ranks.

    python -m tests.bench_scale [--ranks 128,512,2048]       --ranks '': the data only

The state is the real one of rank 0: the engine's own sharding on pretended ranks, on the meta device. What the other
ranks would send is that of rank 0 with other offsets. Seconds are those of the processor, one thread. Each number of
ranks is counted in a process of its own, whose memory is that of rank 0 with all that it holds for the others.

What windows of tokens read is counted by a store, with manifests of version 1, which commits until f4300b6 wrote, and
of today; tests/scale_data.py says how.

Ends with status 1 where rank 0 takes more than 10 s or 2 GiB to save.
"""

from __future__ import annotations

import argparse
import gc
import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from tests.measured import run_measured, status_bytes
from tests.scale_data import READERS, data_table
from train.checkpoint.copies import copied_dims, own_names, owners
from train.checkpoint.save import Written
from train.checkpoint.storage import CheckpointStorage
from train.optim.muon import Muon

SHARDS = 128
MAX_SECONDS, MAX_BYTES = 10.0, 2 * 2**30
TO_SAVE = ("a rank: plan of the first save, s", "rank 0: what it gets, unpickled, s", "rank 0: directory, s")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="128,512,2048", help="default: 128,512,2048")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        gc.disable()  # as torchtitan's trainer does
        print(json.dumps(save_figures(args.one)))
        return 0
    show_table(data_table())
    columns = {}
    for ranks in map(int, filter(None, args.ranks.split(","))):
        taken = run_measured("tests.bench_scale", "--one", str(ranks))
        if taken.exit_code:
            sys.exit(taken.output)
        columns[ranks] = json.loads(taken.output.splitlines()[-1])
    if not columns:
        return 0
    print(f"{'ranks':<48}" + "".join(f"{ranks:>12,}" for ranks in columns))
    for name in next(iter(columns.values())):
        print(f"{name:<48}" + "".join(f"{_text(name, column[name]):>12}" for column in columns.values()))
    last = columns[max(columns)]
    seconds = sum(last[part] for part in TO_SAVE)
    print(f"rank 0, to save: {seconds:.1f} s of {MAX_SECONDS:.0f} s that are allowed, and {MAX_BYTES / 2**20:,.0f} MiB")
    return int(seconds > MAX_SECONDS or last["rank 0: grown by, bytes"] > MAX_BYTES)


def show_table(table: Mapping[str, Mapping[str, str]]) -> None:
    for name, values in {"manifest": dict(zip(READERS, READERS, strict=True)), **table}.items():
        print(f"{name:<48}" + "".join(f"{value:>12}" for value in values.values()))
    print()


def _text(name: str, value: float) -> str:
    if name.endswith("bytes"):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:.2f} s" if name.endswith(", s") else f"{value:,}"


def save_figures(num_ranks: int) -> dict[str, float]:
    """Figure -> its value, in the order in which they are shown."""
    from train.blueprint.sharded import pretended_ranks
    from train.checkpoint.save import Saver, write_directory

    figures: dict[str, float] = {}
    with pretended_ranks(num_ranks), TemporaryDirectory() as folder:
        states, muon = state_of_trinity_large(num_ranks)
        saver, planner = Saver(), DefaultSavePlanner()
        planner.set_up_planner(states)
        figures["a rank: values in its state"] = len(planner.state_dict)
        plan, figures["a rank: plan of the first save, s"] = timed(lambda: saver.plan(planner.state_dict))
        _, figures["a rank: plan of the next, s"] = timed(lambda: saver.plan(planner.state_dict))
        figures["rank 0: shards that it writes"] = sum(item.tensor_data is not None for item in plan.items)
        sent = [pickle.dumps(written) for written in written_by_others(planner.state_dict, muon, num_ranks)]
        figures["rank 0: what it gets, bytes"] = sum(map(len, sent))
        own = written_by_rank_0(plan)
        before = status_bytes("VmRSS")
        received, figures["rank 0: what it gets, unpickled, s"] = timed(lambda: [own, *map(pickle.loads, sent)])
        _, figures["rank 0: directory, s"] = timed(lambda: write_directory(states, Path(folder), received))
        figures["rank 0: grown by, bytes"] = status_bytes("VmHWM") - before
        figures["rank 0: directory, bytes"] = (Path(folder) / ".metadata").stat().st_size
        figures |= load_figures(planner.state_dict, Path(folder))
    return figures


def load_figures(values: dict[str, Any], folder: Path) -> dict[str, float]:
    """Of a start that goes on from the checkpoint."""
    figures: dict[str, float] = {}
    metadata, figures["rank 0: directory read, s"] = timed(CheckpointStorage(folder).read_metadata)
    sent = pickle.dumps(metadata)
    metadata, figures["a rank: directory from rank 0, unpickled, s"] = timed(lambda: pickle.loads(sent))
    planner = DefaultLoadPlanner()
    planner.set_up_planner(values, metadata)
    plan, figures["a rank: plan to read, s"] = timed(planner.create_local_plan)
    names, figures["a rank: which of it are its own, s"] = timed(lambda: own_names(values))
    own = [item for item in plan.items if item.dest_index.fqn in names]
    figures["rank 0: shards that it holds"] = count_shards(plan.items)
    figures["rank 0: shards that it reads"] = count_shards(own)
    return figures


def count_shards(items: Sequence[ReadItem]) -> int:
    return sum(item.type == LoadItemType.TENSOR for item in items)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    return function(), time.process_time() - started


def state_of_trinity_large(num_ranks: int) -> tuple[dict[str, Any], Muon]:
    """What rank 0 saves, on the meta device: weights and every optimizer's state; and the optimizer that plans."""
    from data_pipelines.settings.compose import compose
    from train.blueprint.sharded import blueprint
    from train.config.check import check
    from train.optim.groups import optimizers_config

    replicas = f"parallelism.data_parallel_replicate_degree={num_ranks // SHARDS}"
    run = check(compose(["experiment=trinity_large", "run.name=x", "model.attention=sdpa", replicas]))
    model = blueprint(run.model, training=run.training, parallelism=run.parallelism)
    optimizers = optimizers_config(run.optimizer).build(model_parts=[model])
    (muon,) = (optimizer for optimizer in optimizers if isinstance(optimizer, Muon))
    for optimizer in set(optimizers) - {muon}:
        for parameter in optimizer.param_groups[0]["params"] + optimizer.param_groups[1]["params"]:
            optimizer.state[parameter] = moments_of_adamw(parameter)
    others = {"dataloader": {"next_window": 1}, "lr_scheduler": {"last_epoch": 1}, "train_state": {"step": 1}}
    return {"optimizer": optimizers.state_dict(), **others, **model.state_dict()}, muon


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
    matrices = {name: shards_of(param) for group in muon.param_groups for name, param in named(group)}
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


def named(group: dict[str, Any]) -> Iterator[tuple[str, DTensor]]:
    return zip(group["param_names"], group["params"], strict=True)


def shards_of(tensor: DTensor) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(sizes, offset) of each shard of a tensor, in the order of the ranks that hold them."""
    copied = copied_dims(tensor)
    mesh = [1 if dim in copied else size for dim, size in enumerate(tensor.device_mesh.shape)]
    place = partial(_compute_local_shape_and_global_offset, tensor.shape, mesh, placements=tensor.placements)
    return [place(my_coordinate=list(coordinate)) for coordinate in product(*map(range, mesh))]


def written(index: MetadataIndex, *, rank: int) -> WriteResult:
    return WriteResult(index, 2**20, _StorageInfo(f"__{rank}_0.distcp", 2**33, 2**20))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
