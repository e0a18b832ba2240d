"""Rules of a run as a whole: what it computes in, where it ends, what its checkpoints are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.config import CommConfig, CompileConfig, DebugConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import MemoryBudgetAC
from torchtitan.tools.profiler import Profiler

from train.afmoe.config import ModelConfig
from train.optim.config import OptimizerConfig

DERIVED = ("training.steps", "training.global_batch_size")
"""Fields of the engine's sections that follow from the schedule."""

UNSUPPORTED = {
    "load_only": "the run would train and save nothing; checkpoint.enable=false does that and says so",
    "create_seed_checkpoint": "a run writes none; weights at step 0 follow from debug.seed on every mesh",
    "last_save_model_only": "the last checkpoint is a full one, export makes the model",
}
"""Switches of the `checkpoint` section, and why they stay off."""


def steps_follow_from_the_schedule(settings: dict[str, Any]) -> str | None:
    training = settings.get("training")
    derived = [path for path in DERIVED if isinstance(training, dict) and path.partition(".")[2] in training]
    if derived:
        return (
            f"{', '.join(derived)}: set by the schedule section, not by hand; "
            "run.stop_after_step ends a run early, schedule.batch sets the batch"
        )
    return None


def some_layer_has_experts(model: ModelConfig) -> str | None:
    dense, layers = model.num_dense_layers, model.num_layers
    if dense == layers:
        return f"model.num_dense_layers={dense}: no layer has experts; choose 0 to {layers - 1}"
    return None


def weights_are_float32(training: TrainingConfig) -> str | None:
    if training.dtype != "float32":
        return (
            f"training.dtype: got {training.dtype!r}, allowed: 'float32' (master weights and optimizer states); "
            "computation in bfloat16 is training.mixed_precision_param"
        )
    return None


def checkpoints_are_resumable(checkpoint: CheckpointManager.Config) -> str | None:
    for name, reason in UNSUPPORTED.items():
        if getattr(checkpoint, name):
            return f"checkpoint.{name}: must be false; {reason}"
    if checkpoint.exclude_from_loading:
        return (
            f"checkpoint.exclude_from_loading={checkpoint.exclude_from_loading}: must be empty; a resumed run would go "
            "on without them, and not say so; checkpoint.initial_load_path starts a new run at the weights alone"
        )
    if checkpoint.async_mode != "disabled":
        return f"checkpoint.async_mode: got {checkpoint.async_mode!r}, allowed: 'disabled'"
    return None


def decay_leaves_weights(optimizer: OptimizerConfig) -> str | None:
    """A step multiplies weights by 1 - lr weight_decay."""
    for name in (one.name for one in fields(optimizer)):
        lr, decay = (getattr(getattr(optimizer, name), key, 0.0) for key in ("lr", "weight_decay"))
        if lr * decay >= 1:
            return (
                f"optimizer.{name}.weight_decay={decay}: times lr={lr} it must be below 1, the share of the weights "
                "that a step takes away; the default is 0.1"
            )
    return None


def experts_fill_16_bytes(model: ModelConfig, training: TrainingConfig) -> str | None:
    """torch's grouped product of the experts asks it of each row."""
    multiple = 16 // getattr(torch, training.mixed_precision_param).itemsize
    for name in ("dim", "expert_hidden_dim"):
        if (size := getattr(model, name)) % multiple:
            return (
                f"model.{name}={size}: must be a multiple of {multiple}, the numbers of "
                f"training.mixed_precision_param={training.mixed_precision_param} in 16 bytes; choose "
                f"{size + multiple - size % multiple}"
            )
    return None


def memory_budget_is_compiled(activation_checkpoint: object, compile: CompileConfig) -> str | None:
    is_compiled = compile.enable and "model" in compile.components
    if isinstance(activation_checkpoint, MemoryBudgetAC.Config) and not is_compiled:
        return (
            "activation_checkpoint.kind=memory_budget: the compiler keeps the budget; set compile.enable=true with "
            "compile.components=[model, loss], or kind=full"
        )
    return None


def batches_vary(debug: DebugConfig) -> str | None:
    if debug.batch_invariant:
        return "debug.batch_invariant: must be false; torchtitan has it for reinforcement learning only"
    return None


def seed_is_set(debug: DebugConfig) -> str | None:
    return "debug.seed: must be a number; weights and data order follow from it" if debug.seed is None else None


def collectives_are_real(comm: CommConfig) -> str | None:
    """torchtitan's other modes pretend, for dry runs: a run would train each rank on its own, and not say so."""
    if comm.mode != "default":
        return f"comm.mode={comm.mode}: ranks would not talk to each other as a run needs it; allowed: default"
    return None


def profiles_fit_their_cycle(profiler: Profiler.Config) -> str | None:
    used = profiler.profiler_warmup + profiler.profiler_active
    if profiler.enable_profiling and profiler.profile_freq < used:
        freq = profiler.profile_freq
        return f"profiler.profile_freq={freq}: must be at least profiler_warmup + profiler_active = {used}"
    return None


RULES = (
    collectives_are_real,
    profiles_fit_their_cycle,
    steps_follow_from_the_schedule,
    some_layer_has_experts,
    weights_are_float32,
    checkpoints_are_resumable,
    decay_leaves_weights,
    experts_fill_16_bytes,
    memory_budget_is_compiled,
    batches_vary,
    seed_is_set,
)
