"""Rules across sections: each a small function that returns what is wrong, or None."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torchtitan.tools.utils import get_cuda_flash_attention_impl

from data_pipelines.config import CorpusOptions, source_names
from data_pipelines.plan import mix_problems
from train.config import SECTIONS, world_size

Rule = Callable[[Any], str | None]


def broken_rules(sections: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The messages of all rules that do not hold. A rule whose sections did not validate is left out."""
    run = SimpleNamespace(**sections, settings=settings)
    messages = []
    for rule in RULES:
        try:
            message = rule(run)
        except AttributeError as error:
            if error.name in SECTIONS and error.name not in sections:
                continue
            raise
        if message is not None:
            messages.append(message)
    return messages


def steps_follow_from_the_schedule(run: Any) -> str | None:
    derived = [f"training.{key}" for key in ("steps", "global_batch_size") if key in run.settings["training"]]
    if derived:
        return (
            f"{', '.join(derived)}: set by the schedule section, not by hand; "
            "run.stop_after_step ends a run early, schedule.batch sets the batch"
        )
    return None


def parallelism_is_supported(run: Any) -> str | None:
    degrees = ("tensor_parallel_degree", "context_parallel_degree", "pipeline_parallel_degree")
    wrong = [f"{name}={degree}" for name in degrees if (degree := getattr(run.parallelism, name)) != 1]
    if wrong:
        return f"parallelism: got {', '.join(wrong)}; only data, shard and expert parallelism are supported, set 1"
    return None


def spmd_backend_is_supported(run: Any) -> str | None:
    if run.parallelism.spmd_backend != "partial_dtensor":
        return (
            f"parallelism.spmd_backend: got {run.parallelism.spmd_backend!r}, allowed: 'partial_dtensor' "
            "(torchtitan's default fails with FSDP on torch 2.13)"
        )
    return None


def world_size_matches(run: Any) -> str | None:
    """Only torchrun knows how many ranks there are; without it there is one."""
    replicate, shard = run.parallelism.data_parallel_replicate_degree, run.parallelism.data_parallel_shard_degree
    mesh = f"parallelism: data_parallel_replicate_degree={replicate} x data_parallel_shard_degree={shard}"
    if not _is_mesh(run.parallelism):
        return f"{mesh} is no mesh; each must be at least 1, or the shards -1, which takes the ranks that are left"
    started = int(os.environ.get("WORLD_SIZE", 1))
    ranks = world_size(run.parallelism)
    if "LOCAL_RANK" not in os.environ or (ranks == started and ranks % replicate == 0):
        return None
    needed = f"a multiple of {replicate}" if shard == -1 else ranks
    return f"{mesh} needs {needed} ranks, but {started} were started; change the degrees or torchrun --nproc-per-node"


def expert_parallelism_divides(run: Any) -> str | None:
    ep, experts = run.parallelism.expert_parallel_degree, run.model.num_experts
    if ep < 1 or experts % ep:
        return (
            f"parallelism.expert_parallel_degree={ep} does not divide model.num_experts={experts}; "
            f"choose one of {_divisors(experts)}"
        )
    if not _is_mesh(run.parallelism):
        return None
    shard = world_size(run.parallelism) // run.parallelism.data_parallel_replicate_degree
    if shard % ep:
        return (
            f"parallelism.expert_parallel_degree={ep} does not divide data_parallel_shard_degree={shard}, "
            f"whose ranks it borrows; choose one of {[d for d in _divisors(shard) if experts % d == 0]}"
        )
    return None


def batches_divide(run: Any) -> str | None:
    if run.training.local_batch_size < 1:
        return f"training.local_batch_size: must be at least 1, got {run.training.local_batch_size}"
    if not _is_mesh(run.parallelism):
        return None
    ranks = world_size(run.parallelism)
    wrong = [stage.sequences for stage in run.schedule.batch if stage.sequences % ranks]
    if wrong:
        return f"schedule.batch: {ranks} data-parallel ranks do not divide {wrong} sequences; change batch or mesh"
    return None


def some_layer_has_experts(run: Any) -> str | None:
    dense, layers = run.model.num_dense_layers, run.model.num_layers
    if dense == layers:
        return f"model.num_dense_layers={dense}: no layer has experts; choose 0 to {layers - 1}"
    return None


def parameters_stay_on_the_device(run: Any) -> str | None:
    if run.training.enable_cpu_offload:
        return "training.enable_cpu_offload: must be false; selection biases and Muon work on the device"
    return None


def sequence_fits_the_model(run: Any) -> str | None:
    if not 0 < run.training.seq_len <= run.model.max_seq_len:
        return f"training.seq_len={run.training.seq_len}: must lie in 1..model.max_seq_len={run.model.max_seq_len}"
    return None


def vocabulary_fits_the_model(run: Any) -> str | None:
    """A tokenizer that exists already is measured when the data is opened."""
    is_trained_here = isinstance(run.data, CorpusOptions) and run.data.tokenizer is None
    if is_trained_here and run.data.vocab_size > run.model.vocab_size:
        return (
            f"data.vocab_size={run.data.vocab_size}: the tokenizer would have ids beyond "
            f"model.vocab_size={run.model.vocab_size}; lower the one or raise the other"
        )
    return None


def mix_names_phases_and_sources(run: Any) -> str | None:
    if run.data.mix is None:
        return None
    phases = [phase.name for phase in run.schedule.phases]
    return "; ".join(mix_problems(run.data.mix, phases, source_names(run.data))) or None


def weights_are_float32(run: Any) -> str | None:
    if run.training.dtype != "float32":
        return (
            f"training.dtype: got {run.training.dtype!r}, allowed: 'float32' (master weights and optimizer states); "
            "computation in bfloat16 is training.mixed_precision_param"
        )
    return None


def cuda_graphs_are_off(run: Any) -> str | None:
    if not run.training.disable_cuda_graphs:
        return "training.disable_cuda_graphs: must be true; the token dispatcher asks the host how many tokens arrive"
    return None


def checkpoints_are_resumable(run: Any) -> str | None:
    if run.checkpoint.last_save_model_only:
        return (
            "checkpoint.last_save_model_only: must be false; the last checkpoint is a full one, export makes the model"
        )
    if run.checkpoint.async_mode != "disabled":
        return f"checkpoint.async_mode: got {run.checkpoint.async_mode!r}, allowed: 'disabled'"
    return None


def seed_is_set(run: Any) -> str | None:
    return "debug.seed: must be a number; weights and data order follow from it" if run.debug.seed is None else None


def attention_needs_cuda(run: Any) -> str | None:
    if run.model.attention in ("flex", "varlen") and not torch.cuda.is_available():
        return (
            f"model.attention={run.model.attention}: needs a CUDA device, and this machine has none; set auto or sdpa "
            "(FlexAttention has no backward pass on a CPU, FlashAttention not even a forward pass)"
        )
    return None


def varlen_attention_is_installed(run: Any) -> str | None:
    """torchtitan takes the FlashAttention of the GPU's generation: that of torch up to Ampere, packages from Hopper."""
    if run.model.attention != "varlen":
        return None
    packages = {None: "torch.nn.attention.varlen", "FA3": "flash_attn_interface", "FA4": "flash_attn"}
    package = packages[get_cuda_flash_attention_impl()]
    if find_spec(package) is None:
        return f"model.attention=varlen: needs {package}, which is not installed for this GPU; install it or set flex"
    return None


def varlen_attention_is_bfloat16(run: Any) -> str | None:
    if run.model.attention == "varlen" and run.training.mixed_precision_param != "bfloat16":
        return (
            f"training.mixed_precision_param={run.training.mixed_precision_param}: model.attention=varlen would round "
            "to bfloat16 all the same; set bfloat16, or another backend"
        )
    return None


def compiled_layers_are_bfloat16(run: Any) -> str | None:
    """torch runs the experts' grouped product in float32, but compiles it in bfloat16 only."""
    is_compiled = run.compile.enable and "model" in run.compile.components
    if is_compiled and run.training.mixed_precision_param != "bfloat16":
        return (
            f"compile.enable: needs training.mixed_precision_param=bfloat16, got "
            f"{run.training.mixed_precision_param}; set that, or compile.components=[loss]"
        )
    return None


def liger_needs_cuda(run: Any) -> str | None:
    if run.loss.kernel == "liger" and not torch.cuda.is_available():
        return "loss.kernel=liger: needs a CUDA device, and this machine has none; set torch"
    return None


def liger_is_installed(run: Any) -> str | None:
    if run.loss.kernel == "liger" and find_spec("liger_kernel") is None:
        return (
            "loss.kernel=liger: needs liger_kernel, which is not installed; "
            "install it (pip install -c launch/constraints.txt -e '.[liger]') or set torch"
        )
    return None


def stop_lies_in_the_run(run: Any) -> str | None:
    if run.run.stop_after_step is not None and run.run.stop_after_step < 1:
        return f"run.stop_after_step={run.run.stop_after_step}: must be at least 1, or null"
    return None


RULES: tuple[Rule, ...] = (
    steps_follow_from_the_schedule,
    parallelism_is_supported,
    spmd_backend_is_supported,
    world_size_matches,
    expert_parallelism_divides,
    batches_divide,
    some_layer_has_experts,
    parameters_stay_on_the_device,
    sequence_fits_the_model,
    vocabulary_fits_the_model,
    mix_names_phases_and_sources,
    weights_are_float32,
    cuda_graphs_are_off,
    checkpoints_are_resumable,
    seed_is_set,
    attention_needs_cuda,
    varlen_attention_is_installed,
    varlen_attention_is_bfloat16,
    compiled_layers_are_bfloat16,
    liger_needs_cuda,
    liger_is_installed,
    stop_lies_in_the_run,
)


def _is_mesh(parallelism: Any) -> bool:
    """Whether its ranks can be counted. world_size_matches reports where not; the rules that divide pass then."""
    shard = parallelism.data_parallel_shard_degree
    return parallelism.data_parallel_replicate_degree >= 1 and (shard >= 1 or shard == -1)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
