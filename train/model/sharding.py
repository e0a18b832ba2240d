"""How an AFMoE is laid over the meshes: HSDP for everything, EP for the routed experts.

Adapts torchtitan's sharding helpers; tensor, context and pipeline parallelism are refused in train/rules.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import spmd_types as spmd
from torchtitan.config import TORCH_DTYPE_MAP, CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointing
from torchtitan.distributed.compile import apply_compile
from torchtitan.distributed.fsdp import apply_fsdp_to_decoder
from torchtitan.models.common.decoder_sharding import dense_param_placement
from torchtitan.models.common.moe_sharding import set_moe_sharding_config
from torchtitan.protocols.sharding import ShardingConfig

if TYPE_CHECKING:
    from train.model.afmoe import Afmoe

_EXPERT_LAYOUT: dict[str, spmd.PerMeshAxisSpmdType] = {"w1_EFD": spmd.S(1), "w2_EDF": spmd.S(2), "w3_EFD": spmd.S(1)}
_MOE_BUFFERS = ("expert_bias_E", "bias_momentum_E")


def set_sharding(config: Afmoe.Config, *, enable_ep: bool) -> None:
    """Tells the MoE modules of `config` how to shard; expert parallelism needs telling, FSDP wraps from outside."""
    for layer in config.layers:
        if layer.moe is None:
            continue
        set_moe_sharding_config(layer.moe, enable_ep=enable_ep, enable_sp=False, expert_param_layout=_EXPERT_LAYOUT)
        replicated = {name: dense_param_placement(tp=spmd.R) for name in _MOE_BUFFERS}
        layer.moe.sharding_config = ShardingConfig(state_shardings=replicated)


def parallelize(
    model: Afmoe,
    *,
    parallel_dims: ParallelDims,
    training: TrainingConfig,
    parallelism: ParallelismConfig,
    compile_config: CompileConfig,
    ac_config: ActivationCheckpointing.Config | None,
    dump_folder: str,
) -> Afmoe:
    """Experts over EP, then recomputation, then compilation, then HSDP around the lot (torchtitan's order)."""
    if parallel_dims.ep_enabled:
        model.parallelize(parallel_dims)
    if ac_config is not None:
        ac_config.build(dump_folder=dump_folder).apply(model)
    if compile_config.enable and "model" in compile_config.components:
        apply_compile(model, compile_config=compile_config, parallel_dims=parallel_dims)
    replicate = ["dp_replicate"] if parallel_dims.dp_replicate_enabled else []
    apply_fsdp_to_decoder(
        model,
        parallel_dims.get_mesh([*replicate, "fsdp"]),
        param_dtype=TORCH_DTYPE_MAP[training.mixed_precision_param],
        reduce_dtype=TORCH_DTYPE_MAP[training.mixed_precision_reduce],
        pp_enabled=False,
        cpu_offload=training.enable_cpu_offload,
        reshard_after_forward_policy=parallelism.fsdp_reshard_after_forward,
        ep_degree=parallel_dims.ep,
        edp_mesh=parallel_dims.get_mesh([*replicate, "efsdp"]) if parallel_dims.ep_enabled else None,
        enable_symm_mem=parallelism.enable_fsdp_symm_mem,
    )
    return model
