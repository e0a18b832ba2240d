"""A checked Run -> torchtitan's Trainer.Config: data prepared, plan made, every component given its own section.

A Config only holds settings; torchtitan's Trainer calls `.build()` of each when it is built itself (train/engine).
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.rank import is_rank_0
from data_pipelines.batches.loader import PlanLoader
from data_pipelines.batches.record import record_data
from data_pipelines.corpora.preparation import prepare
from data_pipelines.shards.reader import open_held_out
from train.afmoe.spec import model_spec
from train.checkpoint.commits import committed_steps
from train.checkpoint.initial import check_initial
from train.checkpoint.manager import Checkpoints
from train.checkpoint.tokenizer import keep_tokenizer
from train.config.run import Run
from train.loop.data import build_plan, check_same_text, check_tokenizer, held_out
from train.loop.rates import TimelineSchedule
from train.loop.trainer import Trainer
from train.loss.cross_entropy import CrossEntropyZLoss
from train.optim.groups import optimizers_config


def trainer_config(run: Run) -> Trainer.Config:
    """Raises ConfigError, ValueError or OSError where settings and data do not go together."""
    _check_initial(run)
    prepared = prepare(run.data)
    check_tokenizer(prepared, run.model)
    plan = build_plan(run.data, prepared, run.timeline, seed=run.seed)
    tokenizer_hash = keep_tokenizer(run.run_dir, Path(prepared.tokenizer_dir))
    held_out_hashes = {name: source.manifest.fingerprint for name, source in open_held_out(prepared).items()}
    check_same_text(run.run_dir, plan, held_out_hashes)
    if is_rank_0():
        record_data(run.run_dir, plan, prepared, run.timeline.ramp, held_out=held_out_hashes)
    return Trainer.Config(
        run=run,
        held_out=held_out(run, prepared),
        dump_folder=str(run.run_dir),
        hf_assets_path=prepared.tokenizer_dir,
        model_spec=model_spec(run.model, seq_len=run.training.seq_len),
        optimizer=optimizers_config(run.optimizer),
        lr_scheduler=TimelineSchedule.Config(timeline=run.timeline),
        loss=CrossEntropyZLoss.Config(section=run.loss),
        dataloader=PlanLoader.Config(
            plan=plan,
            prepared=prepared,
            intra_document=run.data.intra_document,
            vocab_size=run.model.vocab_size,
        ),
        # global_batch_size -1: the timeline has the batch of each step
        training=replace(run.training, steps=run.last_step, global_batch_size=-1),
        checkpoint=_checkpoints(run, tokenizer_hash=tokenizer_hash),
        parallelism=run.parallelism,
        activation_checkpoint=run.activation_checkpoint,
        compile=run.compile,
        comm=run.comm,
        debug=run.debug,
        profiler=run.profiler,
    )


def _checkpoints(run: Run, *, tokenizer_hash: str) -> Checkpoints.Config:
    settings = {setting.name: getattr(run.checkpoint, setting.name) for setting in fields(run.checkpoint)}
    settings["load_step"] = -1  # the last there is: what came after it was set aside (train/checkpoint/rewind.py)
    if run.checkpoint.initial_load_path:
        settings["initial_load_model_only"] = True  # step 0: another run's optimizers and schedule stay behind
    return Checkpoints.Config(
        **settings,
        milestones=run.timeline.phase_end_steps,
        tokenizer_hash=tokenizer_hash,
        last_step=run.last_step,
    )


def _check_initial(run: Run) -> None:
    """Only the first start of a run reads the weights it starts from; they may be gone by the next."""
    if not run.checkpoint.initial_load_path:
        return
    if run.checkpoint.initial_load_in_hf:
        raise ConfigError(["checkpoint.initial_load_in_hf: must be false; the folder shows what it holds"])
    if not committed_steps(run.checkpoint_dir):
        check_initial(Path(run.checkpoint.initial_load_path), run.model)
