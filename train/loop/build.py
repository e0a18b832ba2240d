"""A checked Run -> torchtitan's Trainer.Config: data prepared, plan made, every component given its own section.

A Config only holds settings; torchtitan's Trainer calls `.build()` of each when it is built itself (train/engine).
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from torchtitan.config import CommConfig

from data_pipelines.base.rank import is_rank_0
from data_pipelines.batches.loader import PlanLoader
from data_pipelines.batches.record import record_data
from data_pipelines.corpora.preparation import prepare
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.prepared import Prepared
from train.afmoe.spec import model_spec
from train.checkpoint.commits import committed_steps, newest_step
from train.checkpoint.manager import Checkpoints
from train.checkpoint.tokenizer import HASH, keep_tokenizer, tokenizer_hash
from train.config.origin import check_origin, compare_tokenizers, max_positions
from train.config.run import Run
from train.formats.hf_folder import CONFIG
from train.formats.hf_names import hf_config
from train.formats.hf_write import json_text, token_ids_of
from train.loop.data import (
    DataTokenizer,
    check_same_text,
    check_tokenizer,
    held_out,
    plan_of_run,
    redistribution_notes,
)
from train.loop.rates import TimelineSchedule
from train.loop.trainer import Trainer
from train.loss.cross_entropy import CrossEntropyZLoss
from train.metrics.wandb_files import ID_FILE, run_id
from train.optim.groups import optimizers_config
from train.process.stop import StopWish
from train.schedule.timeline import split_batch


def trainer_config(run: Run, wish: StopWish) -> Trainer.Config:
    """wish: what the loop looks at after each step.

    Raises ConfigError, ValueError or OSError where settings and data do not go together.
    """
    check_origin(run)
    opened = prepare(run.data)
    prepared = opened.prepared
    check_tokenizer(prepared, run.model)
    if (note := compare_tokenizers(run, Path(prepared.tokenizer_dir))) and is_rank_0():
        print(f"train: {note}", flush=True)
    plan = plan_of_run(run, opened.train)
    for note in redistribution_notes(run.data, plan) if is_rank_0() else []:
        print(f"train: {note}", flush=True)
    held_out_hashes = {name: source.manifest.fingerprint for name, source in opened.held_out.items()}
    check_same_text(run, plan, held_out_hashes)
    return Trainer.Config(
        run=run,
        wish=wish,
        held_out=held_out(run, opened.held_out),
        on_first_step=partial(_keep_data, run, plan, prepared, held_out_hashes),
        dump_folder=str(run.run_dir),
        hf_assets_path=prepared.tokenizer_dir,
        tokenizer=DataTokenizer.Config(),
        model_spec=model_spec(run.model, seq_len=run.training.seq_len, draws_weights=not _reads_weights(run)),
        optimizer=optimizers_config(run.optimizer),
        lr_scheduler=TimelineSchedule.Config(timeline=run.timeline),
        loss=CrossEntropyZLoss.Config(section=run.loss),
        dataloader=PlanLoader.Config(
            plan=plan,
            sources=opened.train,
            intra_document=run.data.intra_document,
            vocab_size=run.model.vocab_size,
            read_ahead=run.data.read_ahead,
            readers=run.data.readers,
            rows_at=partial(_rows_at, run),
        ),
        # global_batch_size -1: the timeline has the batch of each step
        training=replace(run.training, steps=run.last_step, global_batch_size=-1),
        checkpoint=_checkpoints(run, prepared),
        parallelism=run.parallelism,
        activation_checkpoint=run.activation_checkpoint,
        compile=run.compile,
        comm=_comm(run),
        debug=run.debug,
        profiler=run.profiler,
    )


def _rows_at(run: Run, window: int, num_ranks: int) -> int:
    """Windows that each rank takes of the microbatch that begins at `window`, as the trainer will ask for them."""
    timeline = run.timeline
    step = timeline.step(min(timeline.ramp.step_of(window), timeline.num_steps))
    return split_batch(step.num_windows, num_ranks=num_ranks, at_most=run.training.local_batch_size)[1]


def _reads_weights(run: Run) -> bool:
    """Whether the checkpointer will find weights: of this run, or those that it begins at."""
    return run.checkpoint.enable and bool(newest_step(run.checkpoint_dir) or run.checkpoint.initial_load_path)


def _comm(run: Run) -> CommConfig:
    """A collective that timed out would end the run before its watchdog can say who was missing."""
    if not run.watchdog.enable:
        return run.comm
    longest = math.ceil(2 * run.watchdog.longest_s)
    return replace(
        run.comm,
        init_timeout_seconds=max(run.comm.init_timeout_seconds, longest),
        train_timeout_seconds=max(run.comm.train_timeout_seconds, longest),
    )


def _keep_data(run: Run, plan: Plan, prepared: Prepared, held_out_hashes: dict[str, str]) -> None:
    """What the run directory keeps of its data: not before they have been found to be those of its checkpoint."""
    if not is_rank_0():
        return
    record_data(run.run_dir, plan, prepared, run.timeline.ramp, held_out=held_out_hashes)
    note = keep_tokenizer(run.run_dir, run.checkpoint_dir, Path(prepared.tokenizer_dir))
    if note:
        print(f"train: {note}", flush=True)


def _checkpoints(run: Run, prepared: Prepared) -> Checkpoints.Config:
    settings = {setting.name: getattr(run.checkpoint, setting.name) for setting in fields(run.checkpoint)}
    settings["load_step"] = -1  # the last there is: what came after it was set aside (train/checkpoint/rewind.py)
    if run.checkpoint.initial_load_path:
        settings["initial_load_model_only"] = True  # step 0: another run's optimizers and schedule stay behind
    return Checkpoints.Config(
        **settings,
        milestones=run.timeline.phase_end_steps,
        beside=_beside_weights(run, Path(prepared.tokenizer_dir)),
        last_step=run.last_step,
        timeout_s=2 * run.watchdog.save_after_s,
    )


def _beside_weights(run: Run, tokenizer: Path) -> dict[str, str]:
    """File name -> text: which tokenizer gave the ids their meaning, what no shape shows of the architecture, and the
    run in W&B."""
    config = hf_config(
        run.model,
        max_positions=max_positions(run),
        speed=run.balance.speed,
        token_ids=token_ids_of(tokenizer),
        dtype="float32",
    )
    beside = {HASH: tokenizer_hash(run.run_dir, run.checkpoint_dir, tokenizer), CONFIG: json_text(config)}
    identity = _wandb_id(run)
    return beside | ({ID_FILE: identity} if identity else {})


def _wandb_id(run: Run) -> str:
    """On rank 0, which alone talks to W&B and writes it into checkpoints; elsewhere, and without W&B, empty."""
    if run.metrics.wandb == "disabled" or not is_rank_0():
        return ""
    newest_first = reversed(committed_steps(run.checkpoint_dir))
    return run_id(run.run_dir, [run.checkpoint_dir / f"step-{step}" for step in newest_first])
