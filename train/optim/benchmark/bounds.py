"""The least that a Muon step can take: flops and bytes (pure).

Flops: each matrix is orthogonalised once in the world, 5 (4 m^2 n + 2 m^3) for its sides m <= n.

Bytes, as ranks receive them, summed over all ranks. A matrix of P elements has its rows on S ranks, and R copies of
that exist; its gradient is there as g bytes an element. It is multiplied once, so one rank does it, the owner. Every
element of the result depends on every element of the gradient, hence

    the owner receives the rows that it lacks                          g P (S - 1) / S
    each of the S R - 1 other ranks receives its rows of the result    b P / S

and in all g P (S - 1)/S + b P (S R - 1)/S, whatever the collectives. b is that of the data type in which Newton-Schulz
computes, as the result has no more digits. Where every rank has the whole gradient (S = 1, R = N, as after DDP) that is
b P (N - 1).

Not counted, as it is the same for all or is done by others than the optimizer: the sum of the gradients over replicas
in the backward pass, and the gathering of sharded weights in the next forward pass, which whole ones do not need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from train.optim.orthogonal.ownership import newton_schulz_flops
from train.optim.orthogonal.traffic import bytes_received


@dataclass(frozen=True)
class Spread:
    """Equal matrices, and how their rows lie on ranks."""

    count: int
    """In the world, copies not counted."""
    rows: int
    cols: int
    num_shards: int
    num_replicas: int


def needed_flops(matrices: Iterable[Spread]) -> int:
    return sum(m.count * newton_schulz_flops(m.rows, m.cols) for m in matrices)


def needed_bytes(matrices: Iterable[Spread], *, update_bytes: int) -> float:
    """update_bytes: of an element of the result."""
    return sum(m.count * _of_all_ranks(m, update_bytes) for m in matrices)


def _of_all_ranks(m: Spread, update_bytes: int) -> float:
    shards, replicas = m.num_shards, m.num_replicas
    of_one = bytes_received(m.rows * m.cols, num_shards=shards, num_replicas=replicas, update_bytes=update_bytes)
    return of_one * shards * replicas
