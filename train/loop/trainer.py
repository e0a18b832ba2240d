"""The one Trainer. Extends torchtitan's: its construction, loop, checkpointing and resume are used as they are.

Trainer.Config.build() calls the constructor, which builds the model and every component. train() is torchtitan's: it
loads the last checkpoint, then, step by step, raises `self.step`, calls train_step and checkpointer.save.

A step differs from torchtitan's in what surrounds it: the batch size follows the timeline, numbers that are not finite
stop the run before a weight changes, expert loads are counted over the whole step, and each step leaves a row.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torchtitan import trainer as titan
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils

from data_pipelines.base.errors import REQUEUE_EXIT, RUN_EXIT, RunError
from data_pipelines.base.files import write_whole
from data_pipelines.base.rank import is_rank_0
from data_pipelines.batches.account import FILE_NAME as ACCOUNT
from data_pipelines.batches.account import Account
from data_pipelines.batches.held_out import HeldOutWindows
from data_pipelines.batches.loader import Batch, PlanLoader
from train.afmoe.decoder import moe_layers
from train.afmoe.tally import take_
from train.balance.balancer import Balancer
from train.balance.watch import BalanceWatch
from train.blueprint.kinds import kind_of
from train.checkpoint.manager import Checkpoints
from train.config.run import Run
from train.config.rundir import check_same_start
from train.engine.cpu import adapt_engine
from train.engine.together import from_rank_0, on_all_ranks
from train.evaluation.held_out import HeldOut
from train.loop.history import read_history
from train.loop.local_work import LocalWork
from train.loop.record import make_row, measure_speed, stop_at_alarm
from train.loop.soundness import check_counts, check_last_batch, check_redone, open_books, stop_unless_finite
from train.loop.stopwatch import Stopwatch
from train.loop.totals import Microbatches, Totals, stack, total
from train.loss.cross_entropy import CrossEntropyZLoss
from train.loss.sums import LossSums
from train.metrics.row import Speed, Validated, Watched
from train.metrics.sinks import Sinks, open_sinks
from train.metrics.weights_and_biases import RunFacts
from train.optim.clip import clip_grad_norm_
from train.optim.groups import Optimizers
from train.optim.health import Health
from train.optim.manifest import FILE_NAME as MANIFEST
from train.optim.manifest import check_same_rules, rules_text
from train.process.stop import StopWish
from train.schedule.timeline import Step, split_batch
from train.watchdog.pulse import Pulse
from train.watchdog.watchdog import watching


class Trainer(titan.Trainer):
    """torchtitan's Trainer with our step."""

    @dataclass(kw_only=True, slots=True)
    class Config(titan.Trainer.Config):
        run: Run
        wish: StopWish
        held_out: dict[str, HeldOutWindows] = field(default_factory=dict)
        """Source -> the windows that validation takes of it."""
        on_first_step: Callable[[], None] = lambda: None
        """Called by every rank before the first step of this process, when its data have proved to be the run's."""

        def to_dict(self) -> dict[str, Any]:
            return self.run.settings

    config: Config
    checkpointer: Checkpoints
    dataloader: PlanLoader
    loss_fn: CrossEntropyZLoss
    optimizers: Optimizers

    def __init__(self, config: Config):
        adapt_engine()
        super().__init__(config)
        # NVIDIA's containers switch it on: with ten bits, scores of a router tie, and ties pick experts by index
        torch.backends.cuda.matmul.allow_tf32 = False
        (self.model,) = self.model_parts
        self.timeline = config.run.timeline
        self.batch_mesh = self.parallel_dims.get_optional_mesh("batch")
        self.batch_group = None if self.batch_mesh is None else self.batch_mesh.get_group()
        self.num_batch_ranks = 1 if self.batch_mesh is None else self.batch_mesh.size()
        layers = dict(moe_layers(self.model))
        self.moe_layer_ids = list(layers)
        self.balancer = Balancer(config.run.balance, list(layers.values()))
        self.watch = BalanceWatch(
            self.balancer,
            self.moe_layer_ids,
            panels_every=config.run.metrics.panels_every,
            heatmap_every=config.run.metrics.heatmap_every,
            picture=config.run.run_dir / "loads.png" if is_rank_0() else None,
        )
        self.held_out = on_all_ranks(self._read_held_out, None)
        self.health = Health(
            self.optimizers,
            kind_of,
            every=config.run.metrics.panels_every,
            group=self.batch_group,
        )
        self.initial_validation: dict[str, float] = {}
        self.sinks: Sinks | None = None
        self.pulse = Pulse()
        self.stopwatch = Stopwatch(on_part=self.pulse.enter)
        self.checkpointer.on_save = self._on_save
        self.checkpointer.on_load = self._on_load
        self.checkpointer.beside[MANIFEST] = rules_text(self.optimizers.rules)
        self.local_work = LocalWork(self.device)
        self.account: Account
        """The books of the data after the last step; from the first step of this process on."""
        self.redone: dict[int, str] = {}
        """Step -> batch_digest of steps that were trained before, and are about to be trained again."""
        self.loaded: Path | None = None
        """On rank 0: the checkpoint that was loaded."""
        self.is_stopped = False
        """Whether the ranks have agreed to stop before the last step."""

    def init_distributed(self) -> ParallelDims:
        """torchtitan's; from then on ranks can be asked whether they were started for the same run."""
        dims = super().init_distributed()
        run = self.config.run
        started = from_rank_0(lambda: run.settings, None)
        on_all_ranks(partial(check_same_start, started, run.settings), None)
        return dims

    def _read_held_out(self) -> HeldOut:
        config = self.config
        return HeldOut(
            config.held_out, loss=self.loss_fn, batch_mesh=self.batch_mesh, batch=config.training.local_batch_size
        )

    def _on_save(self) -> None:
        self.pulse.enter("checkpoint")
        self.checkpointer.beside[ACCOUNT] = self.account.text

    def _on_load(self, checkpoint: Path) -> None:
        check_same_rules(checkpoint, rules=self.optimizers.rules)
        self.loaded = checkpoint

    def train(self) -> None:
        with watching(self.config.run.watchdog, self.pulse, self.config.run.run_dir):
            super().train()

    def should_continue_training(self) -> bool:
        return super().should_continue_training() and not self.is_stopped

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """One optimizer step: step `self.step` of the timeline."""
        step = self.timeline.step(self.step)
        self.pulse.begin_step(step.number)
        if self.sinks is None:
            self._begin(step)
        self.optimizers.zero_grad()
        with self.stopwatch("data"):
            microbatches = self._fetch(step, data_iterator)
        with self.stopwatch("forward_backward"):
            figures = self._forward_backward(step, microbatches)
            grad_norm = self._clip()
        totals = self._total(step, figures)
        self._stop_unless_sound(step, totals, grad_norm)
        with self.stopwatch("optimizer"):
            rates = self._update(step, totals)
        self._record(step, totals, grad_norm, rates)
        if totals.stop:
            self._stop_after(step)

    def _begin(self, step: Step) -> None:
        """Before the first step of this process: is the data where the timeline is? Then rows go on after the last."""
        if self.dataloader.next_window != step.first_window:
            raise RunError(
                f"the checkpoint continues at window {self.dataloader.next_window:,}, but step {step.number} of the "
                f"schedule begins at window {step.first_window:,}; it belongs to another schedule"
            )
        run = self.config.run
        books = partial(
            open_books, self.loaded, run.run_dir, self.dataloader.plan, step=step.number - 1, window=step.first_window
        )
        self.account, self.redone = from_rank_0(books, None)
        if self.account.digest:
            last = self.timeline.step(self.account.step)
            check_last_batch(self.account, last, self.dataloader, group=self.batch_group)
        self.config.on_first_step()
        if is_rank_0():
            write_whole(run.run_dir / MANIFEST, self.optimizers.manifest(num_ranks=dist.get_world_size()))
        facts = RunFacts(
            run_dir=run.run_dir,
            name=run.run.name,
            settings=run.settings,
            timeline=self.timeline,
            history=read_history(run.run_dir),
        )
        self.sinks = open_sinks(run.metrics, facts, resume_step=step.number - 1, last_step=run.last_step)
        self.stopwatch.lap()
        if step.number == 1:
            with self.stopwatch("validation"):
                self.initial_validation = self.held_out.losses(self.model, self.device)

    def _fetch(self, step: Step, data_iterator: Iterator[Batch]) -> list[Batch]:
        """This rank's microbatches of the step, on the device."""
        num_microbatches, rows = split_batch(
            step.num_windows, num_ranks=self.num_batch_ranks, at_most=self.config.training.local_batch_size
        )
        self.dataloader.rows = rows
        batches = [next(data_iterator) for _ in range(num_microbatches)]
        return [
            (
                {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()},
                labels.to(self.device, non_blocking=True),
            )
            for inputs, labels in batches
        ]

    def _forward_backward(self, step: Step, microbatches: list[Batch]) -> Microbatches:
        """Accumulates the gradients. Returns the figures of each microbatch."""
        self.balancer.weigh_sequences(step.num_windows)
        self.watch.prepare(step.number)
        labelled_M = torch.stack([(labels != IGNORE_INDEX).sum() for _, labels in microbatches])
        global_tokens = dist_utils.dist_sum_tensor(labelled_M.sum(), self.batch_mesh)
        sums: list[Any] = []
        for number, (inputs, labels) in enumerate(microbatches, 1):
            if isinstance(self.model, FSDPModule):  # what replicas have summed up is exchanged once a step
                self.model.set_requires_all_reduce(number == len(microbatches))
            sums.append(self.forward_backward_step(input_dict=inputs, labels=labels, global_valid_tokens=global_tokens))
        return stack(sums, labelled_M)

    def _forward_backward_body(  # type: ignore[override]  # torchtitan's returns the loss, and its step hands it on
        self, inputs: Tensor, labels: Tensor, global_valid_tokens: Tensor, extra_kwargs: dict[str, Any]
    ) -> LossSums:
        """torchtitan's, but the head takes the loss in, and what comes back are all figures, without a gradient."""
        loss = partial(self.loss_fn, labels_BL=labels)
        with self.train_context():
            sums: LossSums = self.model(inputs, **extra_kwargs, loss=self.local_work.timed(loss))
            (sums.total / global_valid_tokens).backward()
        return LossSums(*(figure.detach() for figure in sums))

    def _clip(self) -> float:
        shard_mesh = self.parallel_dims.get_optional_mesh("fsdp")
        norm = clip_grad_norm_(
            self.model.parameters(),
            max_norm=self.config.training.max_norm,
            shard_group=None if shard_mesh is None else shard_mesh.get_group(),
        )
        return float(norm)

    def _total(self, step: Step, figures: Microbatches) -> Totals:
        self.config.wish.can_wait()
        return total(
            figures,
            take_([layer.tally for layer in self.balancer.layers]),
            digest=self.dataloader.pop_digest(),
            tokens=self.dataloader.pop_tokens(),
            num_sequences=step.num_windows,
            local_seconds=self.stopwatch.seconds("data") + self.local_work.pop_seconds(),
            wants_stop=bool(self.config.wish),
            group=self.batch_group,
        )

    def _stop_unless_sound(self, step: Step, totals: Totals, grad_norm: float) -> None:
        """Every rank holds the same numbers, so all stop, or none, before a weight or a bias changes."""
        run = self.config.run
        stop_unless_finite(step, totals, grad_norm=grad_norm, layer_ids=self.moe_layer_ids, run_dir=run.run_dir)
        check_redone(step, totals.digest, self.redone, run.run_dir)
        tokens = self._tokens(step)
        check_counts(totals.routing.counts_LE, self.moe_layer_ids, tokens=tokens, top_k=run.model.top_k)

    def _update(self, step: Step, totals: Totals) -> dict[str, float]:
        """Moves biases, weights and learning rates. Returns the rates that the weights were moved by."""
        rates = self.optimizers.learning_rates()
        self.balancer.update_biases_(totals.routing.counts_LE.to(self.device))
        self.health.begin(step.number)
        self.optimizers.step()
        self.lr_schedulers.step()
        return rates

    def _record(self, step: Step, totals: Totals, grad_norm: float, rates: dict[str, float]) -> None:
        """Writes the row of the step, before a checkpoint is saved: no checkpoint is ahead of its rows."""
        assert self.sinks is not None
        self.account = self.account.add(step.number, totals.digest, totals.tokens, self.dataloader.next_window)
        row = make_row(
            step,
            totals,
            seq_len=self.timeline.seq_len,
            layer_ids=self.moe_layer_ids,
            grad_norm=grad_norm,
            rates=rates,
            z_loss_weight=self.loss_fn.z_loss_weight,
            balance_loss_weight=self.balancer.config.sequence_loss_weight,
            watched=self._watched(step, totals),
            validated=self._validate(step),
            chain=self.account.chain,
            speed=self._measure_speed(step),  # last: it ends the lap
        )
        self.sinks.write(row)
        if self.balancer.config.alarm.stop:
            stop_at_alarm(row)

    def _stop_after(self, step: Step) -> None:
        """Makes `step` the last of this process, and torchtitan's loop, which saves next, save it."""
        self.is_stopped = step.number < self.config.training.steps
        self.checkpointer.save_after(step.number)

    def _watched(self, step: Step, totals: Totals) -> Watched:
        """What the step shows of the balance of experts, and of the optimizers."""
        watched = self.watch.observe(step.number, totals.routing, tokens=self._tokens(step))
        if figures := self.health.end():
            watched["optimizer"] = figures
        return watched

    def _validate(self, step: Step) -> Validated:
        """Held-out losses where the step ends with a checkpoint, and in step 1 those of the untrained model."""
        validated: Validated = {}
        if step.number == 1:
            validated["initial_validation"] = self.initial_validation
        if self.checkpointer.is_due(step.number):
            with self.stopwatch("validation"):
                validated["validation"] = self.held_out.losses(self.model, self.device)
        return validated

    def _measure_speed(self, step: Step) -> Speed:
        return measure_speed(
            self.stopwatch.lap(),
            save_seconds=self.checkpointer.pop_save_seconds(),
            tokens=self._tokens(step),
            flops_per_token=self.metrics_processor.num_flops_per_token,
            peak_flops=self.metrics_processor.gpu_peak_flops * dist.get_world_size(),
        )

    def _tokens(self, step: Step) -> int:
        return step.num_windows * self.timeline.seq_len

    def state_dict(self) -> dict[str, Any]:
        """The step, and torch's RNG state (the same on every rank; no part of a step draws from it today)."""
        return {"step": self.step, "rng": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        torch.set_rng_state(state_dict["rng"])

    def close(self) -> None:
        if self.sinks is not None:
            failed = sys.exc_info()[0] is not None
            self.sinks.close(exit_code=RUN_EXIT if failed else REQUEUE_EXIT if self.is_stopped else 0)
        super().close()
