"""How evenly Muon's plan lays its work over the ranks of a mesh of any size, without any of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from train.blueprint.sharded import pretended_ranks
from train.engine.mesh import world_size
from train.optim.benchmark.problem import hidden_parameters
from train.optim.muon import Muon
from train.optim.orthogonal.ownership import Round, newton_schulz_flops

if TYPE_CHECKING:
    from train.config.run import ModelSections


def planned_loads(sections: ModelSections) -> list[int]:
    """Flops of each rank of the mesh in a step.

    The plan is that of rank 0, made of the engine's own sharding. Ranks that hold other experts have the same one for
    them: experts divide evenly over their ranks.
    """
    num_ranks, num_replicas = world_size(sections.parallelism), sections.parallelism.data_parallel_replicate_degree
    num_shards = num_ranks // num_replicas
    with pretended_ranks(num_ranks):
        options = sections.optimizer.muon
        plan = Muon(hidden_parameters(sections), **options.settings()).plan
    loads = [0] * num_ranks
    for grid, rounds in plan.items():
        owned = _loads_of_grid(rounds)
        for rank in range(num_ranks):
            replica, place = divmod(rank, num_shards)
            shard = place * grid.shards.size // num_shards
            loads[rank] += owned[shard, replica if grid.replicas.size > 1 else 0]
    return loads


def busiest_over_mean(loads: list[int]) -> float:
    return max(loads) * len(loads) / sum(loads)


def _loads_of_grid(rounds: tuple[Round, ...]) -> Counter[tuple[int, int]]:
    """(shard, replica) -> flops."""
    loads: Counter[tuple[int, int]] = Counter()
    for round_ in rounds:
        for replica, of_replica in enumerate(round_.owned):
            for shard, matrices in enumerate(of_replica):
                loads[shard, replica] += sum(newton_schulz_flops(m.rows, m.cols) for m in matrices)
    return loads
