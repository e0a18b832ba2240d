"""Where each piece of a matrix lies in the exchange buffers (pure index math over torch views).

There are two sides, and each buffer of a side has the same order on the way out and back, so none is ever reordered.
Their contents in order, on the rank of shard s in replica r and on an owner:

    shard side   for each owner, for each of its matrices: the rows of shard s       gradients sent, updates received
    owner side   for each shard, for each of its own matrices: the rows of the shard gradients received, updates sent

The shard side is also, unchanged, what replica r contributes to the all_gather over replicas.

Letters: B matrices of a batch, M rows, N columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from train.optim.orthogonal.ownership import Matrix, Round, row_chunk


def num_elements(matrices: Sequence[Matrix], shard: int, num_shards: int) -> int:
    """Elements of one shard of these matrices."""
    return sum(len(row_chunk(m.rows, shard, num_shards)) * m.cols for m in matrices)


def counts_by_owner(round_: Round, *, replica: int, shard: int) -> list[int]:
    """Shard side: what rank (shard, replica) sends to each rank of its replica, in elements."""
    num_shards = len(round_.owned[replica])
    return [num_elements(of_owner, shard, num_shards) for of_owner in round_.owned[replica]]


def counts_by_shard(matrices: Sequence[Matrix], *, num_shards: int) -> list[int]:
    """Owner side: what the owner of these matrices receives from each shard, in elements."""
    return [num_elements(matrices, shard, num_shards) for shard in range(num_shards)]


def padded_count(round_: Round, *, shard: int) -> int:
    """Length of every replica's part of the all-gather: that of the longest."""
    return max(sum(counts_by_owner(round_, replica=r, shard=shard)) for r in range(len(round_.owned)))


def shard_views(buffer: Tensor, matrices: Sequence[Matrix], *, shard: int, num_shards: int) -> list[Tensor]:
    """The rows of one shard of each matrix, in the order of the buffer."""
    sizes = [len(row_chunk(m.rows, shard, num_shards)) * m.cols for m in matrices]
    pieces = buffer[: sum(sizes)].split(sizes)
    return [piece.view(-1, m.cols) for piece, m in zip(pieces, matrices, strict=True)]


def owner_views(buffer: Tensor, matrices: Sequence[Matrix], *, num_shards: int) -> list[Tensor]:
    """Owner side of the buffer: for each shard, for each matrix, its rows of that shard."""
    parts = buffer.split(counts_by_shard(matrices, num_shards=num_shards))
    return [
        view
        for shard, part in enumerate(parts)
        for view in shard_views(part, matrices, shard=shard, num_shards=num_shards)
    ]


def batch_views(batches: dict[tuple[int, int], Tensor], matrices: Sequence[Matrix], *, num_shards: int) -> list[Tensor]:
    """The same pieces in the same order as owner_views, in whole matrices batched by shape."""
    views = []
    for shard in range(num_shards):
        seen = Counter()
        for m in matrices:
            rows = row_chunk(m.rows, shard, num_shards)
            views.append(batches[m.rows, m.cols][seen[m.rows, m.cols], rows.start : rows.stop])
            seen[m.rows, m.cols] += 1
    return views


def of_shape(matrices: Sequence[Matrix], shape: tuple[int, int]) -> list[Matrix]:
    """The matrices of a batch, in its order."""
    return [m for m in matrices if (m.rows, m.cols) == shape]


def empty_batches(buffer: Tensor, matrices: Sequence[Matrix]) -> dict[tuple[int, int], Tensor]:
    """Uninitialised [B, M, N] for each shape among the matrices, in the data type of the buffer."""
    counts = Counter((m.rows, m.cols) for m in matrices)
    return {shape: buffer.new_empty(count, *shape) for shape, count in counts.items()}
