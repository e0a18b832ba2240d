"""How evenly Muon's plan lays its work over the ranks of a mesh of any size, without any of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from data_pipelines.base.errors import ConfigError
from train.blueprint.sharded import pretended_ranks
from train.engine.mesh import world_size
from train.optim.benchmark.bounds import needed_flops
from train.optim.benchmark.problem import hidden_parameters, sharded_spread
from train.optim.muon import Muon, flops_by_rank
from train.optim.orthogonal.ownership import translates
from train.optim.orthogonal.placement import Grid

if TYPE_CHECKING:
    from train.config.run import ModelSections


def planned_loads(sections: ModelSections) -> list[int]:
    """Flops of each rank of the mesh in a step.

    The grids are those of rank 0, made of the engine's own sharding. Beside a grid that is not of all ranks lie others
    with as many experts of their own, but with owners who have other work. Raises ConfigError where experts do not
    divide evenly over the ranks that deal them out: then other grids hold others.
    """
    num_ranks = world_size(sections.parallelism)
    with pretended_ranks(num_ranks):
        shapes = hidden_parameters(sections)
        muon = Muon(shapes, **sections.optimizer.muon.settings())
        loads: Counter[int] = Counter()
        widest, *narrower = sorted(muon.plan, key=lambda grid: -len(grid.ranks()))
        loads += flops_by_rank(widest, muon.plan[widest])
        for grid in narrower:
            loads += _beside_each_other(muon, grid, loads, num_ranks)
        if loads.total() != needed_flops(sharded_spread(shapes)):
            raise ConfigError(
                [
                    f"model.num_experts={sections.model.num_experts}: do not divide evenly over the ranks that deal "
                    "them out, so that rank 0 does not stand for others; choose parallelism with which they do"
                ]
            )
    return [loads[rank] for rank in range(num_ranks)]


def _beside_each_other(muon: Muon, grid: Grid, work: Counter[int], num_ranks: int) -> Counter[int]:
    """Rank -> flops, for the grid of rank 0 and those that divide the other ranks among them."""
    matrices = sorted(matrix for round_ in muon.plan[grid] for _, _, matrix in round_.each())
    loads: Counter[int] = Counter()
    for first in dict.fromkeys(translates(range(num_ranks), grid.ranks())):
        here = [first + rank for rank in grid.ranks()]
        plan = muon.plan_of(grid, matrices, work=[work[rank] for rank in here], teams=here)
        loads += Counter({first + rank: flops for rank, flops in flops_by_rank(grid, plan).items()})
    return loads


def busiest_over_mean(loads: list[int]) -> float:
    return max(loads) * len(loads) / sum(loads)
