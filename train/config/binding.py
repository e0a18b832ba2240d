"""Which settings make a run what it is, and which may change between two starts of it.

BOUND changes what is computed, or in which order: another value is another run. FREE says where and how it runs, what
it shows and what it keeps; meshes, kernels and sizes of chunks change the order of sums and nothing else, and are
compared in the tests. Every setting is in one of the two, which a test asserts: a new one is a decision, not an
accident. A section is named as a whole where all that it can hold is alike, but for what the other table names more
closely: whoever adds a balance rule or an optimizer need not come here, as their settings bind.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

BOUND = (
    # the model; its name is a label, its attention and its dispatcher are kernels
    "model.vocab_size",
    "model.dim",
    "model.num_layers",
    "model.num_dense_layers",
    "model.num_heads",
    "model.num_kv_heads",
    "model.head_dim",
    "model.dense_hidden_dim",
    "model.expert_hidden_dim",
    "model.num_experts",
    "model.top_k",
    "model.num_shared_experts",
    "model.route_scale",
    "model.route_norm",
    "model.sliding_window",
    "model.global_every",
    "model.rope_theta",
    "model.norm_eps",
    "model.init_std",
    "model.scale_embedding",
    "model.max_seq_len",
    # what each step does to the weights
    "optimizer.*",
    "balance.*",
    "loss.z_loss_weight",
    "schedule.*",
    "training.seq_len",
    "training.max_norm",
    "training.dtype",
    "training.mixed_precision_param",
    "training.mixed_precision_reduce",
    # which tokens it sees
    "data.kind",
    "data.mix*",
    "data.max_epochs",
    "data.when_used_up",
    "data.intra_document",
    "data.vocab_size",
    "data.tokenizer",
    "data.held_out",  # what is held out is not trained on
    "data.sources*",
    # what its losses are the losses of
    "validation.windows",
    # where it starts
    "debug.seed",
    "checkpoint.initial_load_path",
    "checkpoint.exclude_from_loading*",  # what it leaves out would start anew
    # experts get tokens in turn, whatever the router says
    "debug.moe_force_load_balance",
)
"""Patterns of paths; `*` is anything that follows."""

FREE = (
    "run.name",
    "run.dir",
    "run.stop_after_step",  # the schedule stays that of the whole run
    "model.name",
    "model.attention",
    "model.dispatcher",
    "optimizer.muon.exchange_mib",  # matrices a round of the exchange, each whole
    "balance.alarm.*",  # it watches
    "loss.kernel",
    "loss.chunk_mib",
    "loss.chunk_tokens",
    "data.dir",  # the fingerprint of the tokens is compared, wherever they lie
    "training.local_batch_size",  # at most; the schedule has the batch
    "training.enable_cpu_offload",
    "training.disable_cuda_graphs",
    "training.gc_freq",
    "training.gc_debug",
    "parallelism.*",
    "checkpoint.enable",
    "checkpoint.folder",
    "checkpoint.interval",
    "checkpoint.initial_load_model_only",  # of the first start only, and bound with its path
    "checkpoint.initial_load_in_hf",
    "checkpoint.initial_load_in_hf_quantized",
    "checkpoint.last_save_model_only",
    "checkpoint.last_save_in_hf",
    "checkpoint.export_dtype",
    "checkpoint.keep_latest_k",
    "checkpoint.load_step",
    "checkpoint.enable_first_step_checkpoint",
    "checkpoint.create_seed_checkpoint",
    "checkpoint.load_only",
    "checkpoint.async_mode",
    "activation_checkpoint.*",  # computes the same activations again
    "compile.*",
    "comm.*",
    "debug.spmd_typechecking",
    "debug.deterministic",
    "debug.deterministic_warn_only",
    "debug.detect_anomaly",
    "debug.batch_invariant",
    "debug.print_config",
    "debug.save_config_file",
    "debug.enable_structured_logging",
    "profiler.*",
    "metrics.*",
    "watchdog.*",
    "cluster.*",  # where ranks run, and for how long
    "data.skip*",  # whether it is possible is known by the plan and by what was trained (train/loop/data.py)
    "data.edit",
    "data.read_ahead",  # when, not what
    "data.readers",
    "data.tokenizer_may_differ",  # of the first start only, as checkpoint.initial_load_*
)


EDITABLE = ("data.mix*", "schedule.phases*")
"""What data.edit=append lets a run go on with."""


def is_bound(path: str) -> bool:
    """Whether another value would make another run. An unknown setting does: better refused than mixed up."""
    return _closeness(path, BOUND) >= _closeness(path, FREE)


def is_edited(path: str, settings: Mapping[str, Any]) -> bool:
    """Whether a bound setting may differ, since the run says that its plan is edited from here on."""
    return settings["data"].get("edit") == "append" and _closeness(path, EDITABLE) > 0


def is_classified(path: str) -> bool:
    """Whether the tables decide about the setting: one names it, or names it more closely than the other."""
    return _closeness(path, BOUND) != _closeness(path, FREE)


def _closeness(path: str, patterns: tuple[str, ...]) -> int:
    """Length of the longest pattern that names the setting, 0 where none does."""
    return max((len(pattern) for pattern in patterns if fnmatchcase(path, pattern)), default=0)
