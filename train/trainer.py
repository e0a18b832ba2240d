"""The one Trainer. Extends torchtitan's: its construction, loop, checkpointing and resume are used as they are.

A step here differs from torchtitan's in what surrounds it: the batch size follows the timeline, numbers that are not
finite stop the run before a weight changes, expert loads are counted over the whole step, and each step leaves a row.

L = MoE layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from train import cpu  # isort: split

cpu.adapt_engine()

from torchtitan import trainer as titan  # noqa: E402
from torchtitan.components.loss import IGNORE_INDEX  # noqa: E402
from torchtitan.components.optimizer.lr_scheduler import LRSchedulersContainer  # noqa: E402
from torchtitan.distributed import utils as dist_utils  # noqa: E402

from train import metrics  # noqa: E402
from train.balance import Balancer  # noqa: E402
from train.checkpoint import Checkpoints  # noqa: E402
from train.config import Run  # noqa: E402
from train.errors import RunError  # noqa: E402
from train.model.afmoe import moe_layers  # noqa: E402
from train.optim.groups import Optimizers  # noqa: E402
from train.sinks import Console, JsonLines, Sinks, start_wandb  # noqa: E402
from train.stopwatch import Stopwatch  # noqa: E402
from train.timeline import Step, Timeline  # noqa: E402
from train.validate import HeldOut  # noqa: E402

Microbatch = tuple[dict[str, Tensor], Tensor]


class TimelineSchedule(LRSchedulersContainer):
    """Learning rates from the timeline."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        timeline: Timeline

        def build(self, *, optimizers: Optimizers, training_steps: int) -> TimelineSchedule:
            """The scheduler counts finished steps from 0, and also asks for the one after the last."""
            timeline = self.timeline
            return TimelineSchedule(optimizers, lambda done: timeline.step(min(done + 1, timeline.num_steps)).lr_factor)


@dataclass
class Totals:
    """Figures of one step, summed or maximised over ranks; all ranks hold the same."""

    cross_entropy: float
    """Mean over tokens, nats."""
    z: float
    """Mean squared logsumexp."""
    balance_loss: float
    batch_het: float
    counts_LE: Tensor
    digest: int


class Trainer(titan.Trainer):
    """torchtitan's Trainer with our step."""

    @dataclass(kw_only=True, slots=True)
    class Config(titan.Trainer.Config):
        run: Run
        held_out: dict[str, Any] = field(default_factory=dict)
        """Source -> held-out windows."""

        def to_dict(self) -> dict[str, Any]:
            return self.run.settings

    config: Config
    checkpointer: Checkpoints
    optimizers: Optimizers

    def __init__(self, config: Config):
        super().__init__(config)
        self.timeline = config.run.timeline
        (model,) = self.model_parts
        self.model = model
        self.moe_layers = dict(moe_layers(model))
        self.balancer = Balancer(config.run.section("balance"), list(self.moe_layers.values()))
        self.held_out = HeldOut(config.held_out, batch_mesh=self.batch_mesh, batch=config.training.local_batch_size)
        self.stopwatch = Stopwatch()
        self.sinks = Sinks([])

    @property
    def batch_mesh(self) -> Any:
        return self.parallel_dims.get_optional_mesh("batch")

    @property
    def num_batch_ranks(self) -> int:
        return self.batch_mesh.size() if self.batch_mesh is not None else 1

    def train(self) -> None:
        """Resumes, then trains to the end. torchtitan's loop loads the checkpoint again, at no other place."""
        super().train()

    def train_step(self, data_iterator: Iterator[Microbatch]) -> None:
        """One optimizer step."""
        step = self.timeline.step(self.step)
        if not self.sinks.is_open:
            self._open_sinks()
        self.stopwatch.start()
        with self.stopwatch("data"):
            microbatches = self._fetch(step, data_iterator)
        with self.stopwatch("forward_backward"):
            losses = self._forward_backward(step, microbatches)
            grad_norm = self._clip()
        totals = self._reduce(step, losses)
        self._stop_unless_finite(step, totals, grad_norm)
        with self.stopwatch("optimizer"):
            self.balancer.update_biases_(totals.counts_LE)
            rates = self.optimizers.learning_rates()
            self.optimizers.step()
            self.lr_schedulers.step()
        row = self._row(step, totals, grad_norm, rates)
        if self.checkpointer.is_due(self.step):
            with self.stopwatch("validation"):
                row["validation"] = self.held_out.losses(self.model)
        row["seconds"] = self.stopwatch.stop(checkpoint=self.checkpointer.take_save_seconds())
        row["tokens_per_second"] = step.num_windows * self.timeline.seq_len / row["seconds"]["step"]
        row["mfu"] = self._mfu(row["tokens_per_second"])
        self.sinks.write(row)
