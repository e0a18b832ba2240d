"""Checkpoints of four ranks, two of which hold the same: slow planning is waited for, each byte is read once."""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from data_pipelines.base.errors import CONFIG_EXIT
from tests.train.runs import Result, run
from tests.train.small import mesh, small_settings
from train.checkpoint.commits import committed_steps

SLOW_S, TIMEOUT_S = 8, 4
STEPS = 4


def rank_0_plans_slowly() -> None:
    """As it did for 2,048 ranks, when it planned for all."""
    from train.checkpoint.save import Saver

    plan = Saver.plan

    def plan_slowly(self, values):
        if os.environ["RANK"] == "0" and not self.names:
            time.sleep(SLOW_S)
        return plan(self, values)

    Saver.plan = plan_slowly  # type: ignore[method-assign]


def note_reads(folder: Path) -> None:
    """Each rank leaves the names of what it reads of the checkpoint."""
    from train.checkpoint.storage import CheckpointStorage

    read_data = CheckpointStorage.read_data

    def read_and_note(self, plan, planner):
        read = [f"{item.storage_index.fqn} {tuple(item.storage_index.offset or ())}" for item in plan.items]
        (folder / f"read-{os.environ['RANK']}.txt").write_text("\n".join(read))
        return read_data(self, plan, planner)

    CheckpointStorage.read_data = read_and_note  # type: ignore[method-assign]


def resume(folder: Path) -> None:
    """Without weights that nobody needs."""
    import train.afmoe.decoder as decoder

    note_reads(folder)
    decoder.initialize_parameters_ = draw_nothing  # type: ignore[assignment]


def draw_nothing(model, *, std, seed):
    raise AssertionError("a checkpoint has the weights")


class Resumed(NamedTuple):
    first: Result
    second: Result
    unbroken: Result
    read: list[list[str]]
    """Of each rank."""
    run_dir: Path
    settings: list[str]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("shared")
    settings = [*small_settings(folder), *mesh(replicas=2, shards=2, expert_ranks=2), f"run.stop_after_step={STEPS}"]
    settings += ["checkpoint.interval=2", "watchdog.enable=false", f"comm.train_timeout_seconds={TIMEOUT_S}"]
    start = partial(run, run_dir=folder / "run", num_ranks=4)
    first = start([*settings, f"run.stop_after_step={STEPS // 2}"], hook=rank_0_plans_slowly)
    second = start(settings, hook=partial(resume, folder))
    unbroken = run(settings, run_dir=folder / "unbroken", num_ranks=4)
    read = [(folder / f"read-{rank}.txt").read_text().splitlines() for rank in range(4)]
    return Resumed(first, second, unbroken, read, folder / "run", settings)


def test_a_plan_that_takes_longer_than_a_collective_may_is_waited_for(resumed: Resumed) -> None:
    assert resumed.first.exit_codes == [0] * 4, resumed.first.output
    assert committed_steps(resumed.run_dir / "checkpoint") == [STEPS // 2, STEPS]


def test_the_run_goes_on_with_the_same_bits(resumed: Resumed) -> None:
    assert resumed.second.exit_codes == [0] * 4, resumed.second.output
    assert [row["loss"] for row in resumed.second.rows] == [row["loss"] for row in resumed.unbroken.rows]
    assert [row["grad_norm"] for row in resumed.second.rows] == [row["grad_norm"] for row in resumed.unbroken.rows]


def test_each_shard_is_read_once_and_what_is_no_shard_by_rank_0(resumed: Resumed) -> None:
    times = Counter(shard for of_rank in resumed.read for shard in of_rank)
    assert set(times.values()) == {1}
    assert all(len(of_rank) > 10 for of_rank in resumed.read)
    alone = [shard for of_rank in resumed.read[1:] for shard in of_rank if "param_groups" in shard]
    assert not alone


def test_the_ranks_of_both_replicas_write(resumed: Resumed) -> None:
    sizes = {file.name: file.stat().st_size for file in (resumed.run_dir / f"checkpoint/step-{STEPS}").glob("*.distcp")}
    assert sorted(sizes) == [f"__{rank}_0.distcp" for rank in range(4)]


def start_node_2_with_another_seed() -> None:
    """A slip of the hand, where each node has a command of its own."""
    import sys

    import train.config.start as start

    checked_run = start.checked_run
    if os.environ["RANK"] in ("2", "3"):
        start.checked_run = lambda overrides: checked_run([*overrides, "debug.seed=5"])  # type: ignore[assignment]
    sys.modules.pop("train.__main__", None)


def test_ranks_that_were_started_for_another_run_are_refused_by_name(tmp_path: Path) -> None:
    settings = [*small_settings(tmp_path), *mesh(replicas=2, shards=2, expert_ranks=2)]
    result = run(settings, run_dir=tmp_path / "run", num_ranks=4, hook=start_node_2_with_another_seed)
    assert result.exit_codes == [2] * 4, result.output
    assert "debug.seed: rank 0 was started with 0, another with 5; give the same command" in result.output
    assert not result.rows


def test_a_checkpoint_that_another_optimizer_made_is_refused_on_every_rank(resumed: Resumed) -> None:
    path = resumed.run_dir / f"checkpoint/step-{STEPS}/optimizer.json"
    path.write_text(path.read_text().replace('"optimizer": "muon"', '"optimizer": "adamw"'))
    third = run([*resumed.settings, f"run.stop_after_step={STEPS + 1}"], run_dir=resumed.run_dir, num_ranks=4)
    assert third.exit_codes == [CONFIG_EXIT] * 4, third.output
    assert "was under adamw, 1 matrix of 16x16" in third.output
    assert committed_steps(resumed.run_dir / "checkpoint") == [STEPS // 2, STEPS]
