"""Which rank orthogonalises which matrix: a plan that every rank makes by itself, without a message (pure, no torch).

The ranks that hold the same matrices form a grid: the rows of each matrix are split over `num_shards` ranks, and
`num_replicas` copies of that exist. Any of the S x R ranks can own a matrix, so each is orthogonalised once in the
grid instead of once per replica.

A rank may be in several grids: that of its experts lies within that of all other matrices. The wider one is planned
first, evenly over the narrower ones within; and what its owners have to do there counts in these.

The largest matrix goes first, and each goes to the rank with the least work so far (longest processing time first:
Graham 1969; the busiest rank has at most 4/3 of what it has in the best plan). Ranks with equal work take turns over
the replicas, so that each replica contributes about as much to the all_gather.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NUM_ITERATIONS = 5  # of both coefficient tables


@dataclass(frozen=True, slots=True, order=True)
class Matrix:
    """Matrix number `index` of parameter number `param`, counted in what this rank's grid holds of the parameter.
    A 2-D weight has only the index 0."""

    param: int
    index: int
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Round:
    """Matrices that travel together. owned[r][s] are those of the rank in shard s of replica r."""

    owned: tuple[tuple[tuple[Matrix, ...], ...], ...]

    def of_owner(self, *, shard: int, replica: int) -> tuple[Matrix, ...]:
        """What one rank owns."""
        return self.owned[replica][shard]

    def each(self) -> Iterator[tuple[int, int, Matrix]]:
        """(shard, replica, matrix that it owns)."""
        for replica, of_replica in enumerate(self.owned):
            for shard, of_owner in enumerate(of_replica):
                for matrix in of_owner:
                    yield shard, replica, matrix

    def of_replica(self, replica: int) -> list[Matrix]:
        """All matrices that the ranks of one replica own, owner by owner."""
        return [matrix for of_owner in self.owned[replica] for matrix in of_owner]


def newton_schulz_flops(rows: int, cols: int) -> int:
    """Per iteration XX^T and (..)X, 2 m^2 n each, and A^2, 2 m^3; m is the shorter side."""
    short, long = sorted((rows, cols))
    return NUM_ITERATIONS * (4 * short**2 * long + 2 * short**3)


def row_chunk(rows: int, shard: int, num_shards: int) -> range:
    """The rows in one shard, as torch.chunk (and so FSDP2) cuts them: the last ones may be short or empty."""
    size = -(-rows // num_shards)
    return range(min(shard * size, rows), min((shard + 1) * size, rows))


def plan_rounds(
    matrices: Sequence[Matrix],
    *,
    num_shards: int,
    num_replicas: int,
    max_elements: int,
    work: Sequence[int] = (),
    teams: Sequence[int] = (),
) -> tuple[Round, ...]:
    """An owner for each matrix, in rounds. A rank's rows in a round are at most max_elements, or of a single matrix.

    work, teams: of each rank, shard by shard. The flops that it has to do besides, none where it is empty; and a number
    that it shares with those among whom later plans will even out what this one leaves. Without, each is on its own.
    """
    # Carried from round to round, so that the whole step is balanced and not only each round.
    loads = _Loads(num_shards, num_replicas, work, teams)
    rounds = []
    for together in _split(matrices, num_shards, max_elements):
        owned = [[[] for _ in range(num_shards)] for _ in range(num_replicas)]
        for matrix in sorted(together, key=lambda m: -newton_schulz_flops(m.rows, m.cols)):
            shard, replica = loads.give(newton_schulz_flops(matrix.rows, matrix.cols))
            owned[replica][shard].append(matrix)
        rounds.append(Round(tuple(tuple(map(tuple, of_replica)) for of_replica in owned)))
    return tuple(rounds)


def translates(ranks: Sequence[int], grid: Sequence[int]) -> list[int]:
    """For each of `ranks` the first one of the grid that it is in, where grids of one form divide them."""
    offsets = [rank - min(grid) for rank in grid]
    first: dict[int, int] = {}
    for rank in sorted(ranks):
        if rank not in first:
            first |= {rank + offset: rank for offset in offsets}
    return [first[rank] for rank in ranks]


class _Loads:
    """Whose turn it is: the team with the least work, and in it the rank with the least."""

    def __init__(self, num_shards: int, num_replicas: int, work: Sequence[int], teams: Sequence[int]):
        members: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
        for turn in range(num_shards * num_replicas):
            shard, replica = _rank_of(turn, num_shards, num_replicas)
            place = shard * num_replicas + replica
            members[teams[place] if teams else place].append((work[place] if work else 0, turn, shard, replica))
        self._teams = [(sum(load for load, *_ in team), team[0][1], team) for team in members.values()]
        for _, _, team in self._teams:
            heapq.heapify(team)
        heapq.heapify(self._teams)

    def give(self, flops: int) -> tuple[int, int]:
        """Some work. Returns the (shard, replica) of the rank that gets it."""
        of_team, first, team = self._teams[0]
        load, turn, shard, replica = team[0]
        heapq.heapreplace(team, (load + flops, turn, shard, replica))
        heapq.heapreplace(self._teams, (of_team + flops, first, team))
        return shard, replica


def _rank_of(turn: int, num_shards: int, num_replicas: int) -> tuple[int, int]:
    """(shard, replica) of the rank whose turn it is: a diagonal after the other, until all ranks have had one."""
    shard = turn % num_shards
    return shard, (shard + turn // num_shards) % num_replicas


def summary(rounds: Sequence[Round]) -> str:
    """The plan of a grid in figures, for the log."""
    num_replicas, num_shards = len(rounds[0].owned), len(rounds[0].owned[0])
    owned: dict[tuple[int, int], list[Matrix]] = defaultdict(list)
    for round_ in rounds:
        for shard, replica, matrix in round_.each():
            owned[shard, replica].append(matrix)
    num_owners = num_shards * num_replicas
    flops = [sum(newton_schulz_flops(m.rows, m.cols) for m in of_owner) for of_owner in owned.values()]
    elements = [sum(m.rows * m.cols for m in of_owner) for of_owner in owned.values()]
    return (
        f"{sum(map(len, owned.values())):,} matrices over {num_shards} shards x {num_replicas} replicas, "
        f"{len(rounds)} rounds, busiest rank {max(flops):.2e} flops ({max(flops) * num_owners / sum(flops):.2f} x mean)"
        f", largest momentum {4 * max(elements) / 2**20:,.0f} MiB (mean {4 * sum(elements) / num_owners / 2**20:,.0f}, "
        f"kept by every replica {4 * sum(elements) / num_shards / 2**20:,.0f})"
    )


def _split(matrices: Sequence[Matrix], num_shards: int, max_elements: int) -> Iterator[list[Matrix]]:
    together: list[Matrix] = []
    num_elements = 0
    for matrix in matrices:
        # Shard 0 is the largest.
        held = len(row_chunk(matrix.rows, 0, num_shards)) * matrix.cols
        if together and num_elements + held > max_elements:
            yield together
            together, num_elements = [], 0
        together.append(matrix)
        num_elements += held
    if together:
        yield together
