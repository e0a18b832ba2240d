"""train/config/rules/ranks.py: a run that cannot have a number of ranks is told the nearest that it can have."""

from __future__ import annotations

import pytest
from torchtitan.config import ParallelismConfig

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from train.config.check import check
from train.config.rules.ranks import divisors, mesh_of, nearest, possible_ranks


def start(monkeypatch: pytest.MonkeyPatch, ranks: int, *overrides: str) -> list[str]:
    """The problems of a rank that torchrun started as one of so many. Not compiled, as not every torch could."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(ConfigError) as refusal:
        check(compose([*overrides, "compile.enable=false"]))
    return refusal.value.problems


def degrees(replicas: int, shards: int) -> str:
    return f"(parallelism.data_parallel_replicate_degree={replicas} parallelism.data_parallel_shard_degree={shards})"


def test_the_ranks_divide_every_batch_and_are_a_multiple_of_the_experts_ranks() -> None:
    # 24 and 32 sequences: 1, 2, 4 or 8 ranks
    assert possible_ranks([24, 32], expert_ranks=1) == [1, 2, 4, 8]
    assert possible_ranks([24, 32], expert_ranks=4) == [4, 8]
    assert possible_ranks([24, 32], expert_ranks=3) == []
    assert possible_ranks([2**31], expert_ranks=2**30) == [2**30, 2**31]


def test_the_nearest_are_one_from_below_and_one_from_above() -> None:
    assert nearest(5, [2, 4, 8]) == [4, 8]
    assert nearest(4, [2, 4, 8]) == [4]
    assert nearest(1, [2, 4, 8]) == [2]
    assert nearest(9, [2, 4, 8]) == [8]


def test_divisors_by_hand() -> None:
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]


@pytest.mark.parametrize(
    ("ranks", "replicas", "shards", "mesh"),
    [
        (1024, 16, 128, (8, 128)),  # the recipe's shards, fewer replicas
        (64, 16, 128, (1, 64)),  # fewer than its shards: as many as there are
        (96, 16, 64, (2, 48)),  # 64 does not divide 96
        (64, 4, -1, (4, 16)),  # the recipe's replicas, shards take the rest
        (24, 2, -1, (1, 24)),  # 2 replicas of 12 shards, which no 8 experts' ranks divide
    ],
)
def test_a_mesh_stays_as_close_to_the_recipe_as_it_can(
    ranks: int, replicas: int, shards: int, mesh: tuple[int, int]
) -> None:
    section = ParallelismConfig(data_parallel_replicate_degree=replicas, data_parallel_shard_degree=shards)
    assert mesh_of(ranks, section, expert_ranks=8) == mesh


def test_trinity_large_on_1000_ranks_is_told_512_and_1024(monkeypatch: pytest.MonkeyPatch) -> None:
    # 12,288 = 2^12 x 3 and 16,384 = 2^14 sequences: their common divisors are the powers of 2 up to 4,096
    (problem,) = start(monkeypatch, 1000, "experiment=trinity_large")
    assert "needs 2,048 ranks, but 1,000 were started" in problem
    assert problem.endswith(f"change mesh and number to 512 {degrees(4, 128)} or 1,024 {degrees(8, 128)}")


def test_trinity_nano_on_a_node_of_8_is_told_its_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = start(monkeypatch, 8, "experiment=trinity_nano")
    assert problem.endswith(f"change mesh and number to 8 {degrees(1, 8)}")


def test_what_is_named_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = start(monkeypatch, 13, "experiment=trinity_nano")
    assert problem.endswith(f"change mesh and number to 8 {degrees(1, 8)} or 16 {degrees(1, 16)}")
    monkeypatch.setenv("WORLD_SIZE", "16")
    mesh = degrees(1, 16).strip("()").split()
    assert check(compose(["experiment=trinity_nano", "compile.enable=false", *mesh])).world_size == 16


def test_shards_that_take_what_is_left_are_told_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = ["parallelism=fsdp_8_ep8", "parallelism.data_parallel_shard_degree=-1"]
    problems = start(monkeypatch, 24, "experiment=trinity_nano_1node", *mesh)
    assert problems == [
        "schedule.batch: 24 data-parallel ranks do not divide [256, 512] sequences; change the batch, or the ranks to "
        f"16 {degrees(1, 16)} or 32 {degrees(1, 32)}"
    ]


def test_experts_over_ranks_that_divide_no_batch_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = "schedule.batch=[{from_tokens: 0, sequences: 25}]"
    problems = start(monkeypatch, 3, "experiment=trinity_large", batch)
    assert len(problems) == 2
    assert all("none does with parallelism.expert_parallel_degree=8" in problem for problem in problems)
