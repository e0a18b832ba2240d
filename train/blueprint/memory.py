"""Bytes that a rank takes in training, by kind, and on which GPUs that fits. Allocates nothing, needs no accelerator.

Weights, gradients and states are counted (count.py), layers and the loss are run on the meta device (activations.py);
the rest follows from these and the settings. What it assumes, and what nobody has checked on a GPU so far:

- layers run as written, one operation after the other; a compiler that fuses them keeps and takes less;
- experts get equally many tokens, of as many as training.local_batch_size allows, and no dispatcher reserves more room
  (hybridep_worst_case does);
- FSDP has two layers whole at a time, the one at work and the next, and the gradients of two, at work and on their way,
  which it sums in float32;
- a compiler's memory budget lies between full recomputation and none as its number does;
- a tenth of a GPU is left to CUDA, NCCL, the exchange of tokens, and what the allocator cannot use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import ActivationCheckpointing, FullAC, MemoryBudgetAC

from train.afmoe.config import ModelConfig
from train.afmoe.decoder import AfmoeBlock
from train.afmoe.spec import afmoe_config
from train.blueprint.activations import LayerBytes, layer_bytes
from train.blueprint.count import Part
from train.blueprint.tensor_memory import TensorMemory
from train.loss.chunked import linear_loss
from train.loss.config import LossConfig
from train.optim.config import OptimizerConfig
from train.optim.muon import MuonConfig

FLOAT32_BYTES = 4
"""Of weights, gradients and states: train/config/rules/run.py refuses other weights."""
GPUS_GB = {"H100": 80, "H200": 141, "B200": 180, "B300": 288}
USABLE = 0.9
"""Share of a GPU that tensors may take: see above."""
ROUNDS_UNDER_WAY = 4
MUON = "Muon"
"""As parts name their updater."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a rank, by kind."""

    held: dict[str, int]
    """During the whole run."""
    kept: dict[str, int]
    """From the forward to the backward pass of a microbatch, at its end."""
    moments: dict[str, int]
    """On top of both, for a while; only one of them at a time."""
    step: dict[str, int]
    """On top of `held`, while the optimizers step."""

    @property
    def peak(self) -> int:
        microbatch = sum(self.kept.values()) + max(self.moments.values())
        return sum(self.held.values()) + max(microbatch, sum(self.step.values()))


def memory(
    parts: Sequence[Part],
    layers: Sequence[LayerBytes],
    *,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    parallelism: ParallelismConfig,
    loss: LossConfig,
) -> Memory:
    """parts: what `count` counts on the rank. layers: of all_layers."""
    largest = max(layer.weights for layer in layers)
    whole = {"weights of all layers": sum(layer.weights for layer in layers)} if _keeps_weights(parallelism) else {}
    return Memory(
        held=held_bytes(parts),
        kept={"activations": sum(layer.kept for layer in layers), **whole},
        moments={
            "loss": loss_bytes(model, loss, training),
            "backward pass of a layer": max(layer.peak - layer.kept for layer in layers)
            + (0 if whole else 2 * largest)
            + 2 * _gradients(largest, training),
        },
        step={"exchange of Muon": exchange_bytes(parts, optimizer.muon, parallelism)},
    )


def held_bytes(parts: Sequence[Part]) -> dict[str, int]:
    """Weights and gradients, and the states of each optimizer and of the balancing rule."""
    values = {
        "weights": sum(part.on_rank for part in parts),
        "gradients": sum(part.gradients_on_rank for part in parts),
    }
    for updater in dict.fromkeys(part.updater for part in parts):
        values[f"states of {updater}"] = sum(part.states_on_rank for part in parts if part.updater == updater)
    return {name: FLOAT32_BYTES * number for name, number in values.items()}


def loss_bytes(model: ModelConfig, loss: LossConfig, training: TrainingConfig) -> int:
    """At the worst moment of the loss: the whole head, a chunk of logits, both gradients (train/loss/chunked.py).

    Two chunks are run; of the other tokens there are no more than inputs, their gradients, and labels.
    """
    dtype, tokens = getattr(torch, training.mixed_precision_param), training.local_batch_size * training.seq_len
    chunk_tokens = loss.tokens_of_chunk(model.vocab_size)
    run = min(tokens, 2 * chunk_tokens)
    with torch.device("meta"), TensorMemory() as meter:
        hidden_TD = torch.empty(run, model.dim, dtype=dtype, requires_grad=True)
        head_VD = torch.empty(model.vocab_size, model.dim, dtype=dtype, requires_grad=True)
        labels_T = torch.empty(run, dtype=torch.int64)
        linear_loss(hidden_TD, head_VD, labels_T, z_loss_weight=0.0, chunk_tokens=chunk_tokens).total.backward()
    of_a_token = 2 * model.dim * dtype.itemsize + torch.int64.itemsize
    return meter.peak_bytes + (tokens - run) * of_a_token


def exchange_bytes(parts: Sequence[Part], muon: MuonConfig, parallelism: ParallelismConfig) -> int:
    """Of the rounds that are under way at once, and of the one among them that is orthogonalised: float32 gradients
    that are sent and received, 1/replicas of what all get, and these and four times the updates for Newton-Schulz
    (train/optim/orthogonal/exchange.py). Without replicas nothing is gathered."""
    replicas, update = parallelism.data_parallel_replicate_degree, getattr(torch, muon.ns_dtype).itemsize
    of_all = update * sum(part.on_rank for part in parts if part.updater == MUON)
    one = min(of_all, muon.exchange_mib * 2**20)
    rounds = min(of_all, ROUNDS_UNDER_WAY * one)
    gradients = FLOAT32_BYTES / update
    return (rounds if replicas > 1 else 0) + int(2 * gradients * rounds + (gradients + 4) * one) // replicas


def all_layers(
    model: ModelConfig,
    *,
    training: TrainingConfig,
    parallelism: ParallelismConfig,
    recompute: ActivationCheckpointing.Config | None,
) -> list[LayerBytes]:
    """In a microbatch of training.local_batch_size sequences. Layers that are alike are run once."""
    measured: dict[tuple[bool, bool], LayerBytes] = {}
    layers = []
    for layer_id, layer in enumerate(afmoe_config(model, seq_len=training.seq_len).layers):
        kind = model.is_dense(layer_id), model.is_global(layer_id)
        if kind not in measured:
            measured[kind] = _measure(layer, training, parallelism, recompute)
        layers.append(measured[kind])
    return layers


def fitting(peak: int) -> dict[str, bool]:
    """GPU -> whether a rank that takes `peak` bytes fits."""
    return {name: peak <= USABLE * gigabytes * 1e9 for name, gigabytes in GPUS_GB.items()}


def _measure(
    layer: AfmoeBlock.Config,
    training: TrainingConfig,
    parallelism: ParallelismConfig,
    recompute: ActivationCheckpointing.Config | None,
) -> LayerBytes:
    measure = partial(
        layer_bytes,
        layer,
        batch=training.local_batch_size,
        seq_len=training.seq_len,
        expert_ranks=parallelism.expert_parallel_degree,
        dtype=getattr(torch, training.mixed_precision_param),
    )
    if not isinstance(recompute, MemoryBudgetAC.Config):
        return measure(recompute=recompute)
    nothing, everything = measure(recompute=FullAC.Config()), measure(recompute=None)
    between = nothing.kept + recompute.memory_budget * (everything.kept - nothing.kept)
    return replace(nothing, kept=round(between))


def _keeps_weights(parallelism: ParallelismConfig) -> bool:
    """Whether layers stay whole from the forward to the backward pass, instead of being gathered twice."""
    return parallelism.fsdp_reshard_after_forward == "never"


def _gradients(weights: int, training: TrainingConfig) -> int:
    """float32 bytes of the gradients of `weights` bytes."""
    return weights // getattr(torch, training.mixed_precision_param).itemsize * FLOAT32_BYTES
