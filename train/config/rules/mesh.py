"""Rules of the mesh: ranks, experts and batches must divide."""

from __future__ import annotations

import os

from torchtitan.config import ParallelismConfig, TrainingConfig

from train.afmoe.config import ModelConfig
from train.config.rules.ranks import divisors, nearest_meshes
from train.engine.mesh import is_mesh, world_size
from train.schedule.config import ScheduleConfig


def parallelism_is_supported(parallelism: ParallelismConfig) -> str | None:
    degrees = ("tensor_parallel_degree", "context_parallel_degree", "pipeline_parallel_degree")
    wrong = [f"{name}={degree}" for name in degrees if (degree := getattr(parallelism, name)) != 1]
    if wrong:
        return f"parallelism: got {', '.join(wrong)}; only data, shard and expert parallelism are supported, set 1"
    return None


def spmd_backend_is_supported(parallelism: ParallelismConfig) -> str | None:
    if parallelism.spmd_backend != "partial_dtensor":
        return (
            f"parallelism.spmd_backend: got {parallelism.spmd_backend!r}, allowed: 'partial_dtensor' "
            "(torchtitan's default fails with FSDP on torch 2.13)"
        )
    return None


def mesh_has_ranks(parallelism: ParallelismConfig) -> str | None:
    if not is_mesh(parallelism):
        return (
            f"{_degrees(parallelism)} is no mesh; each must be at least 1, or the shards -1, which takes the ranks "
            "that are left"
        )
    return None


def world_size_matches(parallelism: ParallelismConfig, schedule: ScheduleConfig) -> str | None:
    """Only torchrun knows how many ranks there are; without it there is one."""
    if "LOCAL_RANK" not in os.environ or not is_mesh(parallelism):
        return None
    started, ranks = int(os.environ.get("WORLD_SIZE", 1)), world_size(parallelism)
    replicas, shards = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    if ranks == started and ranks % replicas == 0:
        return None
    needed = f"a multiple of {replicas}" if shards == -1 else f"{ranks:,}"
    return (
        f"{_degrees(parallelism)} needs {needed} ranks, but {started:,} were started; start so many (torchrun "
        f"--nproc-per-node), or change mesh and number to {nearest_meshes(started, parallelism, schedule)}"
    )


def _degrees(parallelism: ParallelismConfig) -> str:
    return "parallelism: " + " x ".join(
        f"{name}={getattr(parallelism, name)}"
        for name in ("data_parallel_replicate_degree", "data_parallel_shard_degree")
    )


def expert_parallelism_divides(parallelism: ParallelismConfig, model: ModelConfig) -> str | None:
    ep, experts = parallelism.expert_parallel_degree, model.num_experts
    if ep < 1 or experts % ep:
        return (
            f"parallelism.expert_parallel_degree={ep} does not divide model.num_experts={experts}; "
            f"choose one of {divisors(experts)}"
        )
    if not is_mesh(parallelism):
        return None
    shard = world_size(parallelism) // parallelism.data_parallel_replicate_degree
    if shard % ep:
        return (
            f"parallelism.expert_parallel_degree={ep} does not divide data_parallel_shard_degree={shard}, "
            f"whose ranks it borrows; choose one of {[d for d in divisors(shard) if experts % d == 0]}"
        )
    return None


def dispatcher_has_ranks(model: ModelConfig, parallelism: ParallelismConfig) -> str | None:
    if model.dispatcher != "standard" and parallelism.expert_parallel_degree == 1:
        return (
            f"model.dispatcher={model.dispatcher}: carries tokens between ranks, but "
            "parallelism.expert_parallel_degree=1 has all experts on each; set standard, or spread the experts"
        )
    return None


def batches_divide(training: TrainingConfig, parallelism: ParallelismConfig, schedule: ScheduleConfig) -> str | None:
    if training.local_batch_size < 1:
        return f"training.local_batch_size: must be at least 1, got {training.local_batch_size}"
    if not is_mesh(parallelism):
        return None
    ranks = world_size(parallelism)
    wrong = [stage.sequences for stage in schedule.batch if stage.sequences % ranks]
    if wrong:
        return (
            f"schedule.batch: {ranks:,} data-parallel ranks do not divide {wrong} sequences; change the batch, or "
            f"the ranks to {nearest_meshes(ranks, parallelism, schedule)}"
        )
    return None


def parameters_stay_on_the_device(training: TrainingConfig) -> str | None:
    if training.enable_cpu_offload:
        return "training.enable_cpu_offload: must be false; selection biases and Muon work on the device"
    return None


RULES = (
    parallelism_is_supported,
    spmd_backend_is_supported,
    mesh_has_ranks,
    world_size_matches,
    expert_parallelism_divides,
    dispatcher_has_ranks,
    batches_divide,
    parameters_stay_on_the_device,
)
