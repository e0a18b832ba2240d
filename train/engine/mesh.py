"""How many ranks a `parallelism` section asks for, and how it lays them out."""

from __future__ import annotations

import os

from torchtitan.config import ParallelismConfig


def world_size(parallelism: ParallelismConfig) -> int:
    """Ranks of a mesh; a shard degree of -1 takes what the launcher started."""
    if parallelism.data_parallel_shard_degree == -1:
        return int(os.environ.get("WORLD_SIZE") or parallelism.data_parallel_replicate_degree)
    return parallelism.data_parallel_replicate_degree * parallelism.data_parallel_shard_degree


def is_mesh(parallelism: ParallelismConfig) -> bool:
    """Whether its ranks can be counted: at least one replica, and at least one shard or -1."""
    shard = parallelism.data_parallel_shard_degree
    return parallelism.data_parallel_replicate_degree >= 1 and (shard >= 1 or shard == -1)


def describe_mesh(parallelism: ParallelismConfig) -> str:
    """The `parallelism` section in words."""
    ranks, replicas = world_size(parallelism), parallelism.data_parallel_replicate_degree
    if ranks == 1:
        return "1 rank"
    return (
        f"{ranks:,} ranks: {replicas} replica{'s' if replicas > 1 else ''} x {ranks // replicas} shards, "
        f"experts over {parallelism.expert_parallel_degree}"
    )
