"""A model as one rank of any mesh holds it, without its weights: the engine's own sharding, on pretended ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.utils import init_fake_mode, set_spmd_backend

from train.model.afmoe import Afmoe
from train.model.config import ModelConfig
from train.model.sharding import parallelize, set_sharding
from train.model.spec import afmoe_config


@contextmanager
def pretended_ranks(world_size: int, *, rank: int = 0) -> Iterator[None]:
    """This process as `rank` of `world_size`: meshes can be made, collectives return at once and move nothing."""
    init_fake_mode(world_size, rank=rank)
    try:
        yield
    finally:
        dist.destroy_process_group()


def blueprint(model: ModelConfig, *, training: TrainingConfig, parallelism: ParallelismConfig, seed: int = 0) -> Afmoe:
    """The model on the meta device, sharded over the ranks of the process group; `to_empty` would allocate this
    rank's part of it, and `init_states` fill that."""
    set_spmd_backend(parallelism.spmd_backend)
    config = afmoe_config(model, seq_len=training.seq_len, seed=seed)
    set_sharding(config, enable_ep=parallelism.expert_parallel_degree > 1)
    with torch.device("meta"):
        built = config.build()
    return parallelize(
        built,
        parallel_dims=ParallelDims.from_config(parallelism, dist.get_world_size()),
        training=training,
        parallelism=parallelism,
        compile_config=CompileConfig(),  # neither compilation nor recomputation moves a parameter
        ac_config=None,
        dump_folder="",
    )
