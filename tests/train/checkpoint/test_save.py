"""train/checkpoint/save.py: what each rank writes is a checkpoint of DCP, whole or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from train.blueprint.sharded import pretended_ranks
from train.checkpoint.save import Saver, Written, write_directory

WHOLE = {"weight": torch.arange(15.0).reshape(5, 3), "bias": torch.arange(3.0) - 7}
"""5 and 3 rows on 4 shards: one of each has none."""


def states(rank: int, *, step: int = 3) -> dict[str, Any]:
    """On 2 replicas x 4 shards."""
    mesh = init_device_mesh("cpu", (2, 4))
    placed = {
        name: DTensor.from_local(
            torch.cat([*tensor.chunk(4), *4 * [tensor[:0]]][rank % 4 : rank % 4 + 1]),
            mesh,
            [Replicate(), Shard(0)],
            shape=tensor.shape,
            stride=tensor.stride(),
        )
        for name, tensor in WHOLE.items()
    }
    return {"model": placed, "schedule": {"step": step, "rates": torch.tensor([0.5, 0.25])}}


def write(folder: Path, *, leave_out: int | None = None) -> list[Written]:
    """As 8 ranks would, one after the other."""
    written = []
    for rank in range(8):
        with pretended_ranks(8, rank=rank):
            written.append(Saver().write_own(states(rank), folder))
    return [one for rank, one in enumerate(written) if rank != leave_out]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_one_process_reads_what_eight_ranks_have_written(tmp_path: Path) -> None:
    written = write(tmp_path)
    with pretended_ranks(8):
        write_directory(states(0), tmp_path, written)
    into: dict[str, Any] = {"model": {name: torch.empty_like(tensor) for name, tensor in WHOLE.items()}}
    into["schedule"] = {"step": 0, "rates": torch.zeros(2)}
    load(into, checkpoint_id=tmp_path, no_dist=True)
    for name, tensor in WHOLE.items():
        assert torch.equal(into["model"][name], tensor)
    assert into["schedule"]["step"] == 3
    assert into["schedule"]["rates"].tolist() == [0.5, 0.25]


def test_every_byte_is_written_once(tmp_path: Path) -> None:
    names = [result.index.fqn for one in write(tmp_path) for result in one.results]
    # two chunks of 2 rows and one of 1; three of 1; what is no shard is rank 0's
    assert sorted(names) == ["model.bias"] * 3 + ["model.weight"] * 3 + ["schedule.rates", "schedule.step"]


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_a_part_that_is_missing_is_refused_by_name(rank: int, tmp_path: Path) -> None:
    written = write(tmp_path, leave_out=rank)
    with (
        pretended_ranks(8),
        pytest.raises(ValueError, match="values were written, it has "),
    ):
        write_directory(states(0), tmp_path, written)
    assert not (tmp_path / ".metadata").exists()


def test_a_plan_is_made_once_and_anew_when_the_state_has_grown(tmp_path: Path) -> None:
    with pretended_ranks(8):
        saver = Saver()
        saver.write_own(states(0), tmp_path)
        plan = saver.plan(dict.fromkeys(saver.names))
        assert [item.index.fqn for item in plan.items].count("schedule.step") == 1
        grown = states(0, step=4)
        grown["more"] = 1
        assert "more" in [result.index.fqn for result in saver.write_own(grown, tmp_path).results]
