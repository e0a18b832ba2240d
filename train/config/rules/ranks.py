"""Which numbers of ranks a run can have, and as which mesh: what a refusal names, so that nobody has to search.

Every rank takes as many sequences of a batch as any other: the ranks divide each batch of the schedule. A group of
experts borrows its ranks from the shards: expert_parallel_degree divides these, and with them the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchtitan.config import ParallelismConfig

from train.schedule.config import ScheduleConfig


def nearest_meshes(ranks: int, parallelism: ParallelismConfig, schedule: ScheduleConfig) -> str:
    """What a run that cannot be as it is on `ranks` ranks can be: overrides for the nearest numbers from below and from
    above, or for `ranks` itself where only the degrees are wrong."""
    expert_ranks = max(1, parallelism.expert_parallel_degree)  # less than 1 is refused elsewhere
    possible = possible_ranks([stage.sequences for stage in schedule.batch], expert_ranks=expert_ranks)
    if not possible:
        return f"none does with parallelism.expert_parallel_degree={expert_ranks}, which divides no batch"
    return " or ".join(_described(number, parallelism, expert_ranks) for number in nearest(ranks, possible))


def possible_ranks(batches: Sequence[int], *, expert_ranks: int) -> list[int]:
    """Every number that divides all batches and that `expert_ranks` divides, ascending."""
    return [number for number in divisors(math.gcd(*batches)) if number % expert_ranks == 0]


def nearest(ranks: int, possible: Sequence[int]) -> list[int]:
    """The last of `possible` up to `ranks` and the first from there on: two, or one, where it is equal or at an end."""
    below = [number for number in possible if number <= ranks][-1:]
    above = [number for number in possible if number >= ranks][:1]
    return sorted({*below, *above})


def mesh_of(ranks: int, parallelism: ParallelismConfig, *, expert_ranks: int) -> tuple[int, int]:
    """(replicas, shards) of a possible number of ranks, as close to the section as they come: its replicas where the
    shards take what is left (-1), else as many of its shards as there can be, as fewer would hold more each."""
    replicas, shards = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    if shards == -1:
        replicas = replicas if ranks % (replicas * expert_ranks) == 0 else 1
        return replicas, ranks // replicas
    fitting = [number for number in divisors(ranks) if number % expert_ranks == 0]
    shards = max((number for number in fitting if number <= shards), default=fitting[0])
    return ranks // shards, shards


def divisors(number: int) -> list[int]:
    """Ascending."""
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def _described(ranks: int, parallelism: ParallelismConfig, expert_ranks: int) -> str:
    replicas, shards = mesh_of(ranks, parallelism, expert_ranks=expert_ranks)
    degrees = {"data_parallel_replicate_degree": replicas, "data_parallel_shard_degree": shards}
    return f"{ranks:,} ({' '.join(f'parallelism.{name}={degree}' for name, degree in degrees.items())})"
