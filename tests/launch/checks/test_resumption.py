"""launch/checks/resumption.py: where a run begins, and what it would meet there."""

from __future__ import annotations

import json
import os

import pytest

from data_pipelines.settings.compose import compose
from launch.checks.base import Finding
from tests.launch.checks.world import Fault, World, assert_found
from tests.train.small import write_run
from train.config.check import check
from train.config.owner import _open_locked


def with_checkpoint(world: World) -> None:
    """A run directory with a complete checkpoint of step 1."""
    write_run(world.settings, world.run_dir)


def owned(world: World) -> None:
    world.run_dir.mkdir()
    world.at_end.callback(os.close, _open_locked(world.run_dir))
    (world.run_dir / "owner.json").write_text(json.dumps({"process": 7, "host": "n1", "since": 0}))


def another_run(world: World) -> None:
    with_checkpoint(world)
    world.set("balance.speed=0.5")


def lost_rows(world: World) -> None:
    with_checkpoint(world)
    world.set("checkpoint.folder=other")


def damaged(world: World) -> None:
    with_checkpoint(world)
    (world.run_dir / "checkpoint/step-1/.metadata").write_bytes(b"not a pickle")


def truncated(world: World) -> None:
    with_checkpoint(world)
    (file,) = (world.run_dir / "checkpoint/step-1").glob("*.distcp")
    with file.open("r+b") as opened:
        opened.truncate(1000)


def missing_file(world: World) -> None:
    with_checkpoint(world)
    for file in (world.run_dir / "checkpoint/step-1").glob("*.distcp"):
        file.unlink()


def complete(world: World) -> None:
    with_checkpoint(world)
    world.set("run.stop_after_step=1")


def no_such_step(world: World) -> None:
    with_checkpoint(world)
    world.set("checkpoint.load_step=40")


def other_model(world: World) -> None:
    write_run(world.settings, world.folder / "earlier")
    world.set(f"checkpoint.initial_load_path={world.folder}/earlier/checkpoint/step-1", "model.num_experts=4")


def in_hf(world: World) -> None:
    write_run(world.settings, world.folder / "earlier")
    world.set(f"checkpoint.initial_load_path={world.folder}/earlier/checkpoint/step-1")
    world.set("checkpoint.initial_load_in_hf=true", "checkpoint.initial_load_model_only=true")


FAULTS = {
    "another job on the run": Fault(owned, "fail", "process 7 on n1 has been training there for"),
    "another run in the folder": Fault(another_run, "fail", r"balance\.speed: is 0\.5 now"),
    "steps that would be lost": Fault(lost_rows, "fail", "would lose steps"),
    "damaged checkpoint": Fault(damaged, "fail", "cannot be read"),
    "truncated checkpoint": Fault(truncated, "fail", r"expected [\d,]+ bytes, got 1,000"),
    "checkpoint without a file": Fault(missing_file, "fail", r"distcp is missing"),
    "run that is complete": Fault(complete, "warning", "the run is complete"),
    "step to rewind to that is not there": Fault(no_such_step, "fail", "load_step=40"),
    "weights that are not there": Fault(
        lambda world: world.set("checkpoint.initial_load_path=/nowhere"), "fail", "initial_load_path=/nowhere"
    ),
    "weights of another model": Fault(other_model, "fail", "num_experts"),
    "setting that is not for users": Fault(in_hf, "fail", "initial_load_in_hf=true"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])


def said(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.group == "resumption"]


def test_where_a_run_begins_is_said(world: World) -> None:
    assert said(world.findings()) == [f"begins anew in {world.run_dir}"]
    with_checkpoint(world)
    steps = check(compose([*world.settings, "run.name=x"])).timeline.num_steps
    assert said(world.findings()) == [f"goes on after step 1 of {steps} in {world.run_dir}"]
