"""A model as one rank of any mesh holds it, without its weights: the engine's own sharding, on pretended ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.utils import init_fake_mode, set_spmd_backend

from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe
from train.afmoe.parallelize import parallelize
from train.afmoe.spec import afmoe_config
from train.engine.cpu import adapt_engine


@contextmanager
def pretended_ranks(world_size: int, *, rank: int = 0) -> Iterator[None]:
    """This process as `rank` of `world_size`: meshes can be made, collectives return at once and move nothing."""
    adapt_engine()
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
    config.shard_experts(parallelism)
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
