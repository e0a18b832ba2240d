"""Five steps on some mesh, and how far they are from the same five steps on one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load

from tests.train.runs import Hook, run
from tests.train.small import mesh, small_settings
from train.checkpoint.reader import CheckpointReader

NUM_STEPS, SEQUENCES, CHUNK_TOKENS = 5, 32, 24
FIGURES = ("loss", "z_loss", "balance_loss", "grad_norm")

Outcome: TypeAlias = dict[str, dict[str, Tensor]]
"""What a run leaves: each of FIGURES, by step; `parameters`, `bias` and `momentum`, by name, after the last step."""


class Combination(NamedTuple):
    """How the same steps are spread over ranks, time and memory."""

    replicas: int = 1
    shards: int = 1
    expert_ranks: int = 1
    microbatches: int = 1
    """Forward and backward passes a step, on each rank."""
    recompute: str = "none"
    """activation_checkpoint.kind"""

    @property
    def num_ranks(self) -> int:
        return self.replicas * self.shards

    @property
    def overrides(self) -> list[str]:
        return [
            *mesh(replicas=self.replicas, shards=self.shards, expert_ranks=self.expert_ranks),
            f"training.local_batch_size={SEQUENCES // self.num_ranks // self.microbatches}",
            f"activation_checkpoint.kind={self.recompute}",
        ]

    def __str__(self) -> str:
        words = [f"{self.replicas} x {self.shards}", f"EP {self.expert_ranks}"]
        words += [f"{self.microbatches} microbatches"] * (self.microbatches > 1)
        words += [f"{self.recompute} AC"] * (self.recompute != "none")
        return ", ".join(words)


ONE_RANK = Combination()


class Difference(NamedTuple):
    value: float
    """max |a - b| / max |b| of a tensor."""
    where: str


def mesh_settings(folder: Path) -> list[str]:
    """Overrides under which every mechanism shows: several documents a window, several chunks of logits, gradients
    that are clipped, auxiliary losses of half a percent of the loss, parameters gathered again for the backward pass.
    """
    return [
        *small_settings(folder, document_tokens=20),
        # Of 40 seeds the one whose 15,360 choices of experts are furthest from a tie: the second and the third score
        # are always 1.3e-5 apart, and scores differ by 1e-6 between meshes. A token that goes elsewhere is a fault.
        "debug.seed=34",
        "schedule.token_scale=1.6e-9",
        f"schedule.batch=[{{from_tokens: 0, sequences: {SEQUENCES}}}]",
        f"run.stop_after_step={NUM_STEPS}",
        "metrics.panels_every=1",
        "optimizer.muon.lr=1e-2",  # at smoke's twice these a difference of rounding grows fivefold in five steps
        "optimizer.adamw.lr=1e-3",
        "training.max_norm=0.5",
        "balance.sequence_loss_weight=1e-2",
        "loss.z_loss_weight=1e-3",
        f"loss.chunk_tokens={CHUNK_TOKENS}",
        "parallelism.fsdp_reshard_after_forward=default",
    ]


def finish(combination: Combination, settings: list[str], *, run_dir: Path, hook: Hook | None = None) -> Outcome:
    """The outcome of a run that has to end well."""
    command = [*settings, *combination.overrides]
    result = run(command, run_dir=run_dir, num_ranks=combination.num_ranks, hook=hook)
    assert not any(result.exit_codes), result.output
    assert len(result.rows) == NUM_STEPS
    return read_outcome(run_dir / f"checkpoint/step-{NUM_STEPS}", result.rows)


def read_outcome(checkpoint: Path, rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """The tensors of a checkpoint, with the figures of `rows`."""
    reader = CheckpointReader(checkpoint)
    tensors = {name: reader.read(name) for name in reader.shapes}
    bias = {name: tensors.pop(name) for name in list(tensors) if name.endswith("expert_bias_E")}
    momentum = {name.replace("expert_bias_E", "bias_momentum_E"): torch.empty_like(bias[name]) for name in bias}
    load(momentum, checkpoint_id=checkpoint, no_dist=True)
    figures = {
        key: {f"step {row['step']}": torch.tensor(row[key], dtype=torch.float64) for row in rows} for key in FIGURES
    }
    return {**figures, "parameters": tensors, "bias": bias, "momentum": momentum}


def differences(outcome: Outcome, reference: Outcome) -> dict[str, Difference]:
    """The largest of each column, and where it is."""
    return {column: _largest(outcome[column], expected) for column, expected in reference.items()}


def _largest(got: dict[str, Tensor], expected: dict[str, Tensor]) -> Difference:
    assert got.keys() == expected.keys()
    values = torch.stack([(got[name] - b).abs().max() / b.abs().max() for name, b in expected.items()])
    largest = int(values.argmax())  # of NaN, if there is one
    return Difference(values[largest].item(), list(expected)[largest])
