"""launch/checks/configuration.py: what `python -m train` refuses, all of it, each with a remedy."""

from __future__ import annotations

import pytest

from tests.launch.checks.world import Fault, World, assert_found

FAULTS = {
    "unknown key": Fault(lambda world: world.set("training.seq_lenn=3"), "fail", r"training\.seq_lenn: unknown key"),
    "number out of range": Fault(lambda world: world.set("training.max_norm=-1"), "fail", r"training\.max_norm=-1"),
    "experts over ranks that do not divide them": Fault(
        lambda world: world.set("parallelism.expert_parallel_degree=3"), "fail", "expert_parallel_degree=3 does not"
    ),
    "ranks that do not divide the batch": Fault(
        lambda world: world.set("parallelism.data_parallel_shard_degree=3"), "fail", "do not divide"
    ),
    "mix of a source that is not there": Fault(
        lambda world: world.set("data.mix={general: {webb: 1}}"), "fail", r"data\.mix\.general\.webb: unknown"
    ),
    "experiment that is not there": Fault(lambda world: world.set("balance=nope"), "fail", "balance/nope"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])


def test_all_problems_come_at_once_and_a_near_miss_is_the_remedy(world: World) -> None:
    world.set("training.seq_lenn=3", "balance.speed=-1", "parallelism.expert_parallel_degree=3")
    findings = world.findings()
    assert len(findings) == 3
    assert "did you mean seq_len?" in [finding.remedy for finding in findings]
