"""Rules between the mesh and the nodes that it is laid over."""

from __future__ import annotations

from torchtitan.config import ParallelismConfig

from train.cluster.config import ClusterConfig
from train.engine.mesh import is_mesh, world_size


def mesh_says_how_many_ranks(cluster: ClusterConfig | None, parallelism: ParallelismConfig) -> str | None:
    """Nodes are asked for before there are ranks that could be counted."""
    if cluster and parallelism.data_parallel_shard_degree == -1:
        return (
            "parallelism.data_parallel_shard_degree=-1: takes the ranks that were started, but a cluster is asked for "
            "nodes before; give a number"
        )
    return None


def ranks_fill_the_nodes(cluster: ClusterConfig | None, parallelism: ParallelismConfig) -> str | None:
    if cluster is None or not is_mesh(parallelism) or parallelism.data_parallel_shard_degree == -1:
        return None
    ranks, per_node = world_size(parallelism), cluster.ranks_per_node
    setting = "cluster.gpus_per_node" if cluster.gpus_per_node else "cluster.cpu_ranks_per_node"
    if ranks % per_node:
        return (
            f"{setting}={per_node}: the mesh's {ranks:,} ranks do not fill whole nodes; change "
            "parallelism.data_parallel_replicate_degree or data_parallel_shard_degree, or ask for fewer of a node"
        )
    if cluster.nodes is not None and cluster.nodes * per_node != ranks:
        return (
            f"cluster.nodes={cluster.nodes}: of {per_node} ranks each these are {cluster.nodes * per_node:,} ranks, "
            f"but the mesh has {ranks:,}; set cluster.nodes={ranks // per_node} (null: what the mesh fills), or change "
            "parallelism.data_parallel_replicate_degree or data_parallel_shard_degree"
        )
    return None


def experts_stay_inside_a_node(cluster: ClusterConfig | None, parallelism: ParallelismConfig) -> str | None:
    """Every layer exchanges all its tokens between the ranks of an expert group, which are neighbours by number."""
    if cluster is None:
        return None
    ep, per_node = parallelism.expert_parallel_degree, cluster.ranks_per_node
    if ep >= 1 and per_node % ep:
        return (
            f"parallelism.expert_parallel_degree={ep}: a group of experts would span nodes of {per_node} ranks, and "
            f"each layer send its tokens over the network; choose one of "
            f"{[d for d in range(1, per_node + 1) if per_node % d == 0]}"
        )
    return None


RULES = (
    mesh_says_how_many_ranks,
    ranks_fill_the_nodes,
    experts_stay_inside_a_node,
)
