"""The one Trainer. Extends torchtitan's: its construction, loop, checkpointing and resume are used as they are.

A step differs from torchtitan's in what surrounds it: the batch size follows the timeline, numbers that are not finite
stop the run before a weight changes, expert loads are counted over the whole step, and each step leaves a row.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchtitan import trainer as titan
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.distributed import utils as dist_utils

from data_pipelines.base.errors import RunError
from data_pipelines.base.rank import is_rank_0
from data_pipelines.batches.loader import PlanLoader
from train.afmoe.decoder import moe_layers
from train.afmoe.tally import take_
from train.balance.balancer import Balancer
from train.balance.measures import dead_experts, max_violation
from train.balance.watch import BalanceWatch
from train.checkpoint.manager import Checkpoints
from train.config.run import Run
from train.engine.cpu import adapt_engine
from train.evaluation.held_out import Batch, HeldOut
from train.loop.soundness import check_counts, first_unsound_router
from train.loop.stopwatch import Stopwatch
from train.loop.totals import Totals, total
from train.loss.cross_entropy import CrossEntropyZLoss
from train.loss.sums import LossSums
from train.metrics.row import finite_or_none
from train.metrics.sinks import Sinks, open_sinks
from train.optim.clip import clip_grad_norm_
from train.optim.groups import Optimizers
from train.schedule.timeline import Step, split_batch


class Trainer(titan.Trainer):
    """torchtitan's Trainer with our step."""

    @dataclass(kw_only=True, slots=True)
    class Config(titan.Trainer.Config):
        run: Run
        held_out: dict[str, Batch] = field(default_factory=dict)
        """Source -> held-out windows."""

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
        self.held_out = HeldOut(
            config.held_out, loss=self.loss_fn, batch_mesh=self.batch_mesh, batch=config.training.local_batch_size
        )
        self.initial_validation: dict[str, float] = {}
        self.sinks: Sinks | None = None
        self.stopwatch = Stopwatch()

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """One optimizer step: step `self.step` of the timeline."""
        step = self.timeline.step(self.step)
        if self.sinks is None:
            self._begin(step)
        self.optimizers.zero_grad()
        with self.stopwatch("data"):
            microbatches = self._fetch(step, data_iterator)
        with self.stopwatch("forward_backward"):
            sums = self._forward_backward(step, microbatches)
            grad_norm = self._clip()
        totals = total(
            sums,
            take_([layer.tally for layer in self.balancer.layers]),
            digest=self.dataloader.pop_digest(),
            num_sequences=step.num_windows,
            group=None if self.batch_mesh is None else self.batch_mesh.get_group(),
        )
        self._stop_unless_sound(step, totals, grad_norm)
        with self.stopwatch("optimizer"):
            rates = self.optimizers.learning_rates()
            self.balancer.update_biases_(totals.counts_LE.to(self.device))
            self.optimizers.step()
            self.lr_schedulers.step()
        self._log(step, self._row(step, totals, grad_norm, rates))

    def _begin(self, step: Step) -> None:
        """Before the first step of this process: is the data where the timeline is? Then rows go on after the last."""
        if self.dataloader.next_window != step.first_window:
            raise RunError(
                f"the checkpoint continues at window {self.dataloader.next_window:,}, but step {step.number} of the "
                f"schedule begins at window {step.first_window:,}; it belongs to another schedule"
            )
        run = self.config.run
        self.sinks = open_sinks(
            run.metrics,
            run_dir=run.run_dir,
            name=run.run.name,
            settings=run.settings,
            timeline=self.timeline,
            resume_step=step.number - 1,
        )
        self.stopwatch.lap()
        if step.number == 1:
            with self.stopwatch("validation"):
                self.initial_validation = self.held_out.losses(self.model, self.device)

    def _fetch(self, step: Step, data_iterator: Iterator[Batch]) -> list[Batch]:
        """This rank's microbatches of the step, on the device."""
        num_microbatches, self.dataloader.rows = split_batch(
            step.num_windows, num_ranks=self.num_batch_ranks, at_most=self.config.training.local_batch_size
        )
        batches = [next(data_iterator) for _ in range(num_microbatches)]
        return [
            ({name: tensor.to(self.device) for name, tensor in inputs.items()}, labels.to(self.device))
            for inputs, labels in batches
        ]

    def _forward_backward(self, step: Step, microbatches: list[Batch]) -> Tensor:
        """Accumulates the gradients. Returns what train/loop/totals.py wants of each microbatch, float64."""
        self.balancer.weigh_sequences(step.num_windows)
        self.watch.prepare(step.number)
        tokens = torch.stack([(labels != IGNORE_INDEX).sum() for _, labels in microbatches])
        global_tokens = dist_utils.dist_sum_tensor(tokens.sum(), self.batch_mesh)
        sums = [
            self.forward_backward_step(input_dict=inputs, labels=labels, global_valid_tokens=global_tokens)
            for inputs, labels in microbatches
        ]
        return torch.cat([torch.stack(sums).double(), tokens[:, None].double()], dim=1)

    def _forward_backward_body(
        self, inputs: Tensor, labels: Tensor, global_valid_tokens: Tensor, extra_kwargs: dict[str, Any]
    ) -> Tensor:
        """torchtitan's, but the head takes the loss in, and what comes back are the figures without a gradient."""
        with self.train_context():
            sums: LossSums = self.model(inputs, **extra_kwargs, loss=partial(self.loss_fn, labels_BL=labels))
            (sums.total / global_valid_tokens).backward()
        return torch.stack(sums[1:])

    def _clip(self) -> float:
        shard_mesh = self.parallel_dims.get_optional_mesh("fsdp")
        norm = clip_grad_norm_(
            self.model.parameters(),
            max_norm=self.config.training.max_norm,
            shard_group=None if shard_mesh is None else shard_mesh.get_group(),
        )
        return float(norm)

    def _stop_unless_sound(self, step: Step, totals: Totals, grad_norm: float) -> None:
        """Every rank holds the same numbers, so all stop, or none, before a weight or a bias changes."""
        wrong = {
            "loss": totals.loss,
            "z": totals.mean_z,
            **first_unsound_router(totals.balance_loss_L, self.moe_layer_ids),
            "gradient norm": grad_norm,
        }
        wrong = {name: value for name, value in wrong.items() if not math.isfinite(value)}
        if wrong:
            raise RunError(
                f"step {step.number} ({step.phase}, windows {step.first_window:,} to "
                f"{step.first_window + step.num_windows - 1:,}): {', '.join(f'{k} is {v}' for k, v in wrong.items())}. "
                "The weights have not been changed by it; the last checkpoint stands. Look at the data of the step: "
                f"`python -m data_pipelines.explain {self.config.run.run_dir} --step {step.number}`, or lower the "
                "learning rates."
            )
        top_k = self.config.run.model.top_k
        check_counts(totals.counts_LE, self.moe_layer_ids, tokens=self._tokens(step), top_k=top_k)

    def _tokens(self, step: Step) -> int:
        return step.num_windows * self.timeline.seq_len

    def _row(self, step: Step, totals: Totals, grad_norm: float, rates: dict[str, float]) -> dict[str, Any]:
        violations = max_violation(totals.counts_LE).tolist()
        return {
            "step": step.number,
            "tokens": (step.first_window + step.num_windows) * self.timeline.seq_len,
            "phase": step.phase,
            "loss": totals.loss,
            "accuracy": totals.accuracy,
            "lm_logit_max": finite_or_none(totals.max_logit),
            "lm_logsumexp": finite_or_none(totals.mean_lse),
            "z_loss": self.loss_fn.z_loss_weight * totals.mean_z,
            "balance_loss": self.balancer.config.sequence_loss_weight * float(totals.balance_loss_L.sum()),
            "grad_norm": grad_norm,
            **rates,
            "global_batch": step.num_windows,
            "max_violation": max(violations),
            "max_violation_by_layer": dict(zip(self.moe_layer_ids, violations, strict=True)),
            "dead_experts": int(dead_experts(totals.counts_LE).sum()),
            "batch_het": totals.batch_het,
            "batch_digest": totals.digest,
            **self.watch.observe(step.number, totals.routing, tokens=self._tokens(step)),
        }

    def _log(self, step: Step, row: dict[str, Any]) -> None:
        """Completes the row and writes it, before a checkpoint is saved: no checkpoint is ahead of its rows."""
        assert self.sinks is not None
        if step.number == 1:
            row["initial_validation"] = self.initial_validation
        if self.checkpointer.is_due(step.number):
            with self.stopwatch("validation"):
                row["validation"] = self.held_out.losses(self.model, self.device)
        seconds = {"data": 0.0, "forward_backward": 0.0, "optimizer": 0.0, "validation": 0.0} | self.stopwatch.lap()
        row["seconds"] = seconds | {"checkpoint": self.checkpointer.pop_save_seconds()}
        row["tokens_per_second"] = self._tokens(step) / seconds["total"]
        flops = row["tokens_per_second"] * self.metrics_processor.num_flops_per_token
        peak = self.metrics_processor.gpu_peak_flops * dist.get_world_size()
        row["mfu"] = finite_or_none(flops / peak)
        self.sinks.write(row)
        if "alarm" in row and self.balancer.config.alarm.stop:
            raise RunError(
                f"step {step.number}: {row['alarm']}. The run stops because of balance.alarm.stop=true; the last "
                "checkpoint stands. Look at loads.png and at by_layer in metrics.jsonl. The same command goes on from "
                "the checkpoint; balance.alarm.stop=false takes it past this step."
            )

    def state_dict(self) -> dict[str, Any]:
        """The step, and torch's RNG state (the same on every rank; no part of a step draws from it today)."""
        return {"step": self.step, "rng": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        torch.set_rng_state(state_dict["rng"])

    def close(self) -> None:
        if self.sinks is not None:
            self.sinks.close()
        super().close()
