"""The path of an update: rows of gradients -> whole matrices at their owners -> rows of updates -> every replica.

FSDP leaves each rank with some rows of every gradient, but a matrix can only be orthogonalised as a whole. So each
matrix has an owner (ownership.py), which keeps its momentum, and the matrices travel in rounds. A round has four stages
and, between them, three collectives:

    1. every rank cuts out its rows of the gradients         -> all_to_all over the shards of a replica
    2. the owners make whole gradients into updates          -> all_to_all, the reverse
    3. every rank has its rows back                          -> all_gather over the replicas
    4. every rank applies its rows of all updates

An axis of size 1 needs no collective; the code is the same on one rank.

The schedule (run_interleaved) overlaps rounds: while the bytes of one travel, another is computed. In each turn a new
round starts and those under way advance by a stage, so with rounds A, B, C ... the stages happen in the order

    A1 | B1 A2 | C1 B2 A3 | D1 C2 B3 A4 | E1 D2 C3 B4 | ...

The newest goes first, so that its bytes are already on their way when the owners compute for the round before it.

Bytes per rank and step, for P elements in the matrices of a grid of S shards x R replicas. Gradients travel in float32,
so that momentum is to the bit what one rank would have; updates, of which only Newton-Schulz's digits count, with b
bytes an element:

    all_to_all, out and back   sends (4 + b) P/(SR) (S-1)/S   only what its own replica owns
    all_gather                 receives b P/S (R-1)/R         the rest

Repeating the work on each replica sends (4 + b) P/S (S-1)/S: for split rows owning costs fewer bytes and 1/R of the
arithmetic. Whole experts (S = 1) would send nothing; there ownership pays where the arithmetic that it saves, 30 M
flops per element of an M x M matrix, takes longer than sending b bytes: M > 1,300 at 1 PFLOP/s, 50 GB/s and bfloat16.

Before this, FSDP has summed the gradients over the replicas, and every replica has all of them: an all_reduce of
2 (4 P/S) (R-1)/R bytes, float32. A reduction to the owner would be half of that. It stays: FSDP runs it under the
backward pass, layer by layer, where the half would stand at the end of the step with nothing to hide behind (Trinity
Large on 2,048 ranks: 12 GB, 0.23 s at 50 GB/s); and clipping needs the norm of the sum before any owner may add it.

Memory: momentum is 4 P/(SR) bytes a rank, where replicas that kept their own would have 4 P/S each. The largest buffer
of a round is the result of the all_gather, b P/S summed over the matrices of the round and padded to the longest
replica; the plan keeps it near `exchange_mib`. In addition there are 4/(bR) of that to send, as much to receive and,
while Newton-Schulz runs, (4/b + 4)/R more. At most four rounds are in memory at once, one at each stage.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: one kernel for many tensors, as torch.optim itself calls it.
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import record_function

from train.optim.orthogonal import layout
from train.optim.orthogonal.ownership import Matrix, Round
from train.optim.orthogonal.placement import Axis, Grid

Update = Callable[[list[Matrix], Tensor], Tensor]
Apply = Callable[[Matrix, Tensor], None]
Work = dist.Work | None  # None: nothing to wait for
MARK = "muon: "
"""Start of the names of phases."""


def exchange(
    round_: Round,
    grid: Grid,
    *,
    gradients: Sequence[Tensor],
    update: Update,
    apply_: Apply,
    dtype: torch.dtype,
) -> Iterator[None]:
    """One round, as a generator: each `yield` stands between two stages, while a collective is under way.

    gradients[param]: this rank's part of each parameter's gradient, [matrices, rows, columns], float32.
    update(matrices, g_BMN): called on the gradients that this rank owns, batched by shape; may change them.
    apply_(matrix, u_MN): called for every matrix of the round, with this rank's rows of its update, as `dtype`.
    """
    shards, replicas = grid.shards, grid.replicas
    held = round_.of_replica(replicas.index)
    mine = round_.of_owner(shard=shards.index, replica=replicas.index)
    by_owner = layout.counts_by_owner(round_, replica=replicas.index, shard=shards.index)
    by_shard = layout.counts_by_shard(mine, num_shards=shards.size)

    with phase("send gradients"):
        at_shards = gradients[0].new_empty(sum(by_owner))
        at_owner = at_shards if shards.size == 1 else at_shards.new_empty(sum(by_shard))
        views = layout.shard_views(at_shards, held, shard=shards.index, num_shards=shards.size)
        _copy_(views, [gradients[m.param][m.index] for m in held])
        work = _all_to_all_(at_owner, at_shards, by_shard, by_owner, shards)
    yield
    with phase("wait for gradients"):
        _wait(work)
    # What lies beyond sum(by_owner) is padding: the all_gather sends it, and nobody reads it.
    padded = at_shards.new_empty(layout.padded_count(round_, shard=shards.index), dtype=dtype)
    back_at_shards = padded[: sum(by_owner)]
    updated = back_at_shards if shards.size == 1 else padded.new_empty(sum(by_shard))
    with phase("update"):
        _update_(updated, at_owner, mine, shards.size, update)
        work = _all_to_all_(back_at_shards, updated, by_owner, by_shard, shards)
    yield
    with phase("wait for updates"):
        _wait(work)
    gathered = padded if replicas.size == 1 else padded.new_empty(replicas.size * padded.numel())
    work = _all_gather_(gathered, padded, replicas)
    yield
    with phase("wait for replicas"):
        _wait(work)
    with phase("apply"):
        for replica, part in enumerate(gathered.view(replicas.size, -1)):
            matrices = round_.of_replica(replica)
            views = layout.shard_views(part, matrices, shard=shards.index, num_shards=shards.size)
            for matrix, u_MN in zip(matrices, views, strict=True):
                apply_(matrix, u_MN)


def phase(name: str) -> record_function:
    """Marks what a profile shows of a step."""
    return record_function(MARK + name)


def run_interleaved(rounds: Iterable[Iterator[None]]) -> None:
    """Runs all rounds to their end, in the order that the top of this file shows.

    Every rank of a group runs the same rounds in the same order, so their collectives match without any message.
    """
    in_flight: list[Iterator[None]] = []  # the newest first
    for started in rounds:
        in_flight = _advanced([started, *in_flight])
    while in_flight:
        in_flight = _advanced(in_flight)


def _advanced(rounds: list[Iterator[None]]) -> list[Iterator[None]]:
    """Runs one stage of each round, in order; returns the rounds that are not finished."""
    unfinished = []
    for round_ in rounds:
        try:
            next(round_)
        except StopIteration:
            continue
        unfinished.append(round_)
    return unfinished


def _update_(to: Tensor, from_: Tensor, matrices: Sequence[Matrix], num_shards: int, update: Update) -> None:
    """Gradients in one owner-side buffer -> updates in the other."""
    batches = layout.empty_batches(from_, matrices)
    places = partial(layout.batch_views, matrices=matrices, num_shards=num_shards)
    _copy_(places(batches), layout.owner_views(from_, matrices, num_shards=num_shards))
    batches = {shape: update(layout.of_shape(matrices, shape), g_BMN) for shape, g_BMN in batches.items()}
    _copy_(layout.owner_views(to, matrices, num_shards=num_shards), places(batches))


def _copy_(destinations: list[Tensor], sources: list[Tensor]) -> None:
    if destinations:  # a rank may own nothing in a round
        torch._foreach_copy_(destinations, sources)


def _all_to_all_(to: Tensor, from_: Tensor, to_counts: list[int], from_counts: list[int], axis: Axis) -> Work:
    if axis.size == 1:
        return None
    return dist.all_to_all_single(to, from_, to_counts, from_counts, group=axis.group, async_op=True)


def _all_gather_(to: Tensor, from_: Tensor, axis: Axis) -> Work:
    if axis.size == 1:
        return None
    return dist.all_gather_single(to, from_, group=axis.group, async_op=True)


def _wait(work: Work) -> None:
    if work is not None:
        work.wait()
