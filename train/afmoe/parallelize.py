"""Lays a model over the meshes: experts, recomputation, compilation, HSDP. torchtitan calls it for its ModelSpec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchtitan.config import TORCH_DTYPE_MAP, CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointing
from torchtitan.distributed.compile import apply_compile
from torchtitan.distributed.fsdp import apply_fsdp_to_decoder

if TYPE_CHECKING:
    from train.afmoe.decoder import Afmoe


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
    """In torchtitan's order: experts over EP, recomputation, compilation, and HSDP around all of it.

    Each step goes around the one before: a layer is compiled together with its recomputation, and FSDP gathers the
    weights of a layer before any of it runs. The arguments are torchtitan's.
    """
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
