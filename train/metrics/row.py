"""One row of metrics.jsonl: every key of it, with its unit.

A step is an optimizer step; its figures are over the whole global batch, all microbatches and ranks. Layers are named
by their number in the model, as text ("6"), for JSON has no other keys.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol, TypedDict, cast

ByLayer = dict[str, float]
"""MoE layer -> figure."""
RATE = "lr_"
"""Start of the keys of learning rates; the name of an optimizer follows, as in the `optimizer` section."""
Losses = dict[str, float]
"""Source -> mean cross-entropy of its held-out windows, nats per token; empty where nothing is held out."""


class Seconds(TypedDict):
    """Wall time in seconds, by the host's clock (train/loop/stopwatch.py)."""

    data: float
    """Waiting for the batch."""
    forward_backward: float
    """Forward and backward passes, and the clipping of the gradient."""
    optimizer: float
    """Update of biases and weights."""
    validation: float
    """Held-out losses; 0 in a step without."""
    total: float
    """From the end of the step before to the end of this one, saving of a checkpoint included. What none of the parts
    covers is overhead."""
    checkpoint: float
    """Saving of the checkpoint before this step, which is part of this `total`."""


class Rates(TypedDict):
    """Learning rates of a step, before the factors for a matrix's shape: `lr_adamw`, `lr_muon`, one key for each
    optimizer in use. `rates` reads them."""


class Watched(TypedDict, total=False):
    """What some steps show of the balance of the experts and of the optimizers."""

    balance: dict[str, dict[str, float]]
    """Group of layers (early, middle, late) -> panel -> figure; every metrics.panels_every steps. The panels are
    described in train/balance/panels.py."""
    by_layer: dict[str, ByLayer]
    """Panel -> figure of each layer; in the same steps."""
    optimizer: dict[str, dict[str, float]]
    """Figure -> kind of parameter -> its value for one of them; in the same steps. The figures are described in
    train/optim/health.py."""
    loads: Path
    """The picture of the loads that the step has drawn (in the file: its path); every metrics.heatmap_every steps."""
    alarm: str
    """What the collapse alarm says, in the steps in which it goes off."""
    spike: str
    """What the spike alarm says, likewise (train/metrics/spikes.py)."""


class Validated(TypedDict, total=False):
    """Held-out losses, in some steps."""

    initial_validation: Losses
    """Of the untrained model; in step 1."""
    validation: Losses
    """After the step; where it ends with a checkpoint."""


class Speed(TypedDict):
    """How long a step took."""

    seconds: Seconds
    tokens_per_second: float
    """Tokens of the step over its total time, all ranks together."""
    mfu: float | None
    """Model FLOPs utilisation, 0..1; null where the peak of the device is unknown, as on a CPU."""


class Row(Rates, Watched, Validated, Speed):
    """One object of metrics.jsonl: these keys, and those of the parts that it is made of."""

    step: int
    """From 1."""
    tokens: int
    """Seen by the run so far, this step included."""
    phase: str
    """The phase of the schedule that the step begins in."""
    loss: float
    """Mean cross-entropy, nats per token, without auxiliary terms."""
    accuracy: float
    """Share of the tokens whose label had the largest logit, 0..1."""
    lm_logit_max: float | None
    """Largest logit of the LM head; null where the loss does not measure it."""
    lm_logsumexp: float | None
    """Mean logsumexp of the LM head's logits, nats; null likewise."""
    z_loss: float
    """Mean squared logsumexp times its weight, as it is added to the loss."""
    balance_loss: float
    """Sequence-wise balance loss times its weight, mean over sequences, summed over layers."""
    grad_norm: float
    """L2 norm of the gradient, before it is clipped."""
    global_batch: int
    """Sequences in the step."""
    max_violation: float
    """MaxVio, (largest load - mean load) / mean load, of the worst MoE layer: 0 where all experts are loaded evenly."""
    max_violation_by_layer: ByLayer
    """MaxVio of each MoE layer."""
    dead_experts: int
    """Experts that got no token, summed over the MoE layers."""
    batch_het: float
    """BatchHet of the Trinity report: largest mean loss of a microbatch less the mean of them all, nats per token."""
    batch_digest: str
    """Digest of the windows of the global batch, 16 hex digits; the same for any number of ranks."""
    batch_chain: str
    """Hash of the digests of all batches so far, in their order, 32 hex digits (data_pipelines/batches/account.py)."""
    slowest_rank: int
    """The rank that took longest for its batch, the head and the loss, in which it waits for no other."""
    slowest_excess: float
    """By what share it took longer than the mean of all ranks."""


def rates(row: Row) -> dict[str, float]:
    """Optimizer -> its learning rate in the step of `row`."""
    values = cast(dict[str, float], row)
    return {key.removeprefix(RATE): values[key] for key in values if key.startswith(RATE)}


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: a figure that does not exist here (MFU on a CPU) is null."""
    return value if math.isfinite(value) else None


class Sink(Protocol):
    """Takes one row a step."""

    def write(self, row: Row) -> None: ...

    def close(self, exit_code: int = 0) -> None: ...
