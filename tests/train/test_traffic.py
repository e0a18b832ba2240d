"""What a step sends and a start reads, counted on two replicas of two shards: replicas exchange their gradients once,
however many microbatches a step has, and all of it is what train/blueprint/traffic.py says of pretended ranks; a rank
opens the manifest and the tokenizer once."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from data_pipelines.settings.compose import compose
from tests.train.runs import Result, run
from tests.train.small import mesh, small_settings
from train.blueprint.sharded import blueprint, pretended_ranks
from train.blueprint.traffic import Moved, hsdp_traffic
from train.config.check import check

STEPS = 2
COLLECTIVES = {
    "all_gather_single": "all_gather",
    "reduce_scatter_single": "reduce_scatter",
    "all_reduce": "all_reduce",
}
"""torch's name -> ours."""


def count_traffic(file: Path) -> None:
    """Rank 0 leaves (calls, bytes that go in) of FSDP's collectives in the last step; all ranks, what they opened."""
    import torch.distributed as dist

    from tests.counted import count_opens
    from train.loop.trainer import Trainer

    opens = count_opens()
    calls, sizes = Counter[str](), Counter[str]()

    def counted(name: str) -> Any:
        collective = getattr(dist, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if "_fully_shard" in sys._getframe(1).f_code.co_filename:
                tensor = kwargs["input"] if "input" in kwargs else args[-1]
                calls[name] += 1
                sizes[name] += tensor.numel() * tensor.element_size()
            return collective(*args, **kwargs)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name))
    train_step = Trainer.train_step

    def step(self: Trainer, data_iterator: Any) -> None:
        calls.clear()
        sizes.clear()
        train_step(self, data_iterator)
        if os.environ["RANK"] == "0":
            file.write_text(json.dumps({name: (calls[name], sizes[name]) for name in COLLECTIVES}))
        file.with_suffix(f".rank{os.environ['RANK']}").write_text(json.dumps(opens))

    Trainer.train_step = step  # type: ignore[method-assign]


class Counted(NamedTuple):
    settings: list[str]
    steps: dict[int, dict[str, list[int]]]
    """Microbatches of a step -> collective -> its calls and bytes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traffic")


@pytest.fixture(scope="module")
def counted(folder: Path) -> Counted:
    settings = [*small_settings(folder), *mesh(replicas=2, shards=2, expert_ranks=2), f"run.stop_after_step={STEPS}"]
    settings += ["schedule.batch=[{from_tokens: 0, sequences: 12}]", "checkpoint.enable=false"]
    settings += ["parallelism.fsdp_reshard_after_forward=always"]
    found = {}
    for microbatches in (1, 3):
        file = folder / f"{microbatches}.json"
        result: Result = run(
            [*settings, f"training.local_batch_size={3 // microbatches}"],
            run_dir=folder / f"run-{microbatches}",
            num_ranks=4,
            hook=partial(count_traffic, file),
        )
        assert result.exit_codes == [0] * 4, result.output
        found[microbatches] = json.loads(file.read_text())
    return Counted(settings, found)


@pytest.fixture(scope="module")
def counts(counted: Counted) -> dict[int, dict[str, list[int]]]:
    return counted.steps


def test_replicas_exchange_gradients_once_a_step(counts: dict[int, dict[str, list[int]]]) -> None:
    calls, size = counts[1]["all_reduce"]
    assert calls > 4  # one for each part that FSDP wraps
    assert counts[3]["all_reduce"] == [calls, size]


def test_shards_do_so_with_every_microbatch(counts: dict[int, dict[str, list[int]]]) -> None:
    """Gradients do not stay whole in between: that would cost the memory that shards save."""
    calls, size = counts[1]["reduce_scatter_single"]
    assert calls > 4
    assert counts[3]["reduce_scatter_single"] == [3 * calls, 3 * size]


@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_pretended_rank_says_what_a_real_one_has_sent(counted: Counted, microbatches: int) -> None:
    settings = check(compose(counted.settings))
    with pretended_ranks(4):
        model = blueprint(settings.model, training=settings.training, parallelism=settings.parallelism)
        said = hsdp_traffic(model, num_microbatches=microbatches)
    for name, ours in COLLECTIVES.items():
        assert counted.steps[microbatches][name] == [said[ours].calls, said[ours].buffers]


def test_hand_worked_bytes_that_come_over_the_network() -> None:
    """A matrix of 8 x 4 on two replicas of two shards: 16 elements on a rank, bfloat16 there and float32 back."""
    with pretended_ranks(4):
        pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_replicate", "fsdp"))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        model = nn.Linear(4, 8, bias=False, device="meta")
        fully_shard(model, mesh=pairs, mp_policy=policy)
        moved = hsdp_traffic(model, num_microbatches=2)
    assert moved["all_gather"] == Moved(calls=4, buffers=4 * 32, received=4 * 32)
    assert moved["reduce_scatter"] == Moved(calls=2, buffers=2 * 128, received=2 * 64)
    assert moved["all_reduce"] == Moved(calls=1, buffers=64, received=2 * 64 * 1 / 2)


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("rank", range(4))
def test_a_rank_opens_the_manifest_and_the_tokenizer_once(folder: Path, rank: int) -> None:
    opens = json.loads((folder / f"1.rank{rank}").read_text())
    assert opens[f"{folder}/shards/manifest.json"] == 1
    assert opens[f"{folder}/tokenizer/tokenizer.json"] == (1 if rank else 2)  # rank 0 copies it into the run's folder
