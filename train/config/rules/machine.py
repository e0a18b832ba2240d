"""Rules of the machine: what a setting needs of devices and packages."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.tools.profiler import Profiler
from torchtitan.tools.utils import get_cuda_flash_attention_impl

from train.afmoe.config import ModelConfig
from train.cluster.config import GPUS_PER_NODE
from train.loss.config import LossConfig

TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])


def has_cuda(settings: dict[str, Any]) -> bool:
    """Whether the ranks find a GPU: on this machine, or where a cluster is asked for some."""
    cluster = settings.get("cluster") or {}
    waits = cluster.get("kind") == "slurm" and "SLURM_JOB_ID" not in os.environ
    return torch.cuda.is_available() or bool(waits and cluster.get("gpus_per_node", GPUS_PER_NODE))


def cuda_graphs_are_off(training: TrainingConfig) -> str | None:
    if not training.disable_cuda_graphs:
        return "training.disable_cuda_graphs: must be true; the token dispatcher asks the host how many tokens arrive"
    return None


def attention_needs_cuda(model: ModelConfig, settings: dict[str, Any]) -> str | None:
    if model.attention in ("flex", "varlen") and not has_cuda(settings):
        return (
            f"model.attention={model.attention}: needs a CUDA device, and this machine has none; set auto or sdpa "
            "(FlexAttention has no backward pass on a CPU, FlashAttention not even a forward pass)"
        )
    return None


def varlen_attention_is_installed(model: ModelConfig) -> str | None:
    """torchtitan takes the FlashAttention of the GPU's generation: that of torch up to Ampere, packages from Hopper."""
    if model.attention != "varlen":
        return None
    packages = {None: "torch.nn.attention.varlen", "FA3": "flash_attn_interface", "FA4": "flash_attn"}
    package = packages[get_cuda_flash_attention_impl()]
    if find_spec(package) is None:
        return f"model.attention=varlen: needs {package}, which is not installed for this GPU; install it or set flex"
    return None


def varlen_attention_is_bfloat16(model: ModelConfig, training: TrainingConfig) -> str | None:
    if model.attention == "varlen" and training.mixed_precision_param != "bfloat16":
        return (
            f"training.mixed_precision_param={training.mixed_precision_param}: model.attention=varlen would round "
            "to bfloat16 all the same; set bfloat16, or another backend"
        )
    return None


def dispatcher_needs_cuda(model: ModelConfig, settings: dict[str, Any]) -> str | None:
    if model.dispatcher != "standard" and not has_cuda(settings):
        return f"model.dispatcher={model.dispatcher}: needs a CUDA device, and this machine has none; set standard"
    return None


def dispatcher_is_installed(model: ModelConfig) -> str | None:
    if model.dispatcher != "standard" and find_spec("deep_ep") is None:
        edition = "version 2 or later" if model.dispatcher == "deepep" else "its branch hybrid-ep"
        return (
            f"model.dispatcher={model.dispatcher}: needs the package deep_ep, which is not installed; build it from "
            f"github.com/deepseek-ai/DeepEP ({edition}) or set standard"
        )
    return None


def dispatcher_carries_bfloat16(model: ModelConfig, training: TrainingConfig) -> str | None:
    if model.dispatcher != "standard" and training.mixed_precision_param != "bfloat16":
        return (
            f"training.mixed_precision_param={training.mixed_precision_param}: model.dispatcher={model.dispatcher} "
            "carries bfloat16 only; set that, or standard"
        )
    return None


def compiled_layers_are_bfloat16(compile: CompileConfig, training: TrainingConfig) -> str | None:
    """torch runs the experts' grouped product in float32, but compiles it in bfloat16 only."""
    is_compiled = compile.enable and "model" in compile.components
    if is_compiled and training.mixed_precision_param != "bfloat16":
        return (
            f"compile.enable: needs training.mixed_precision_param=bfloat16, got "
            f"{training.mixed_precision_param}; set that, or compile.components=[loss]"
        )
    return None


def torch_sets_timeouts() -> str | None:
    """On CPUs train/engine/cpu.py does without."""
    if torch.cuda.is_available() and not hasattr(torch.distributed, "set_timeout"):
        return (
            f"torch {torch.__version__}: has no torch.distributed.set_timeout, which torchtitan calls on GPUs; install "
            "2.14 or later (TORCH=2.15.0 in a new environment)"
        )
    return None


def liger_needs_cuda(loss: LossConfig, settings: dict[str, Any]) -> str | None:
    if loss.kernel == "liger" and not has_cuda(settings):
        return "loss.kernel=liger: needs a CUDA device, and this machine has none; set torch"
    return None


def liger_is_installed(loss: LossConfig) -> str | None:
    if loss.kernel == "liger" and find_spec("liger_kernel") is None:
        return (
            "loss.kernel=liger: needs liger_kernel, which is not installed; "
            "install it (pip install -c launch/constraints.txt -e '.[liger]') or set torch"
        )
    return None


def compiled_experts_are_recomputed_from_2_14(
    compile: CompileConfig, parallelism: ParallelismConfig, activation_checkpoint: object
) -> str | None:
    """Asked of a rank that starts: another machine may well check what this torch is not going to run."""
    is_rank = "LOCAL_RANK" in os.environ
    return recomputed_experts_problem(compile, parallelism, activation_checkpoint) if is_rank else None


def recomputed_experts_problem(
    compile: CompileConfig, parallelism: ParallelismConfig, activation_checkpoint: object
) -> str | None:
    """Before 2.14, the compiler takes the mesh that the exchange of tokens saves for a tensor. Tried on CPUs: 2.13.0
    fails, 2.14.1 trains."""
    is_compiled = compile.enable and "model" in compile.components
    recomputes = activation_checkpoint is not None and parallelism.expert_parallel_degree > 1
    if is_compiled and recomputes and TORCH < (2, 14):
        return (
            f"compile.enable: torch {torch.__version__} cannot compile activation checkpointing around experts on "
            "several ranks; install 2.14 or later, set compile.enable=false, activation_checkpoint.kind=none, or "
            "compile.components=[loss]"
        )
    return None


def compiler_is_there(compile: CompileConfig) -> str | None:
    if not compile.enable or compile.backend == "inductor":
        return None
    there = torch.compiler.list_backends(exclude_tags=())
    return None if compile.backend in there else f"compile.backend={compile.backend}: allowed: {', '.join(there)}"


def snapshots_need_cuda(profiler: Profiler.Config) -> str | None:
    if profiler.enable_memory_snapshot and not torch.cuda.is_available():
        return "profiler.enable_memory_snapshot: needs a CUDA device, and this machine has none; set false"
    return None


RULES = (
    torch_sets_timeouts,
    cuda_graphs_are_off,
    attention_needs_cuda,
    varlen_attention_is_installed,
    varlen_attention_is_bfloat16,
    dispatcher_needs_cuda,
    dispatcher_is_installed,
    dispatcher_carries_bfloat16,
    compiled_layers_are_bfloat16,
    compiled_experts_are_recomputed_from_2_14,
    compiler_is_there,
    snapshots_need_cuda,
    liger_needs_cuda,
    liger_is_installed,
)
