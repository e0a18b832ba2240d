"""A checked Run -> torchtitan's Trainer.Config: data prepared, plan made, every component configured."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from train import cpu

cpu.adapt_engine()

from data_pipelines.loader import PlanLoader, held_out_windows  # noqa: E402
from data_pipelines.prepare import Prepared, prepare  # noqa: E402
from data_pipelines.sources import build_plan  # noqa: E402
from data_pipelines.tokenizer import TextEncoder  # noqa: E402
from train.checkpoint import Checkpoints, committed_steps  # noqa: E402
from train.config import Run  # noqa: E402
from train.errors import ConfigError  # noqa: E402
from train.initial import check_initial  # noqa: E402
from train.loss import CrossEntropyZLoss  # noqa: E402
from train.model.spec import model_spec  # noqa: E402
from train.optim.groups import optimizers_config  # noqa: E402
from train.trainer import TimelineSchedule, Trainer  # noqa: E402
from train.validate import Batch  # noqa: E402


def trainer_config(run: Run) -> Trainer.Config:
    """Raises ConfigError, ValueError or OSError where settings and data do not go together."""
    section, timeline = run.section, run.timeline
    prepared = prepare(section("data"))
    _check_tokenizer(run, prepared)
    training = replace(
        section("training"),
        steps=last_step(run),
        global_batch_size=-1,  # the timeline has the batch of each step
    )
    return Trainer.Config(
        run=run,
        held_out=_held_out(run, prepared),
        dump_folder=str(run.run_dir),
        hf_assets_path=prepared.tokenizer_dir,
        model_spec=model_spec(section("model"), seq_len=training.seq_len),
        optimizer=optimizers_config(section("optimizer")),
        lr_scheduler=TimelineSchedule.Config(timeline=timeline),
        loss=CrossEntropyZLoss.Config(section=section("loss")),
        dataloader=PlanLoader.Config(
            plan=build_plan(section("data"), prepared, timeline, seed=section("debug").seed),
            prepared=prepared,
            intra_document=section("data").intra_document,
            vocab_size=section("model").vocab_size,
        ),
        training=training,
        checkpoint=_checkpoints(run),
        **{name: section(name) for name in ("parallelism", "activation_checkpoint", "compile", "comm")},
        **{name: section(name) for name in ("debug", "profiler")},
    )


def last_step(run: Run) -> int:
    """The step after which this start of the run ends."""
    return min(run.section("run").stop_after_step or run.timeline.num_steps, run.timeline.num_steps)


def _checkpoints(run: Run) -> Checkpoints.Config:
    section = run.section("checkpoint")
    settings = {setting.name: getattr(section, setting.name) for setting in fields(section)}
    if section.initial_load_path:
        settings["initial_load_model_only"] = True  # step 0: another run's optimizers and schedule stay behind
        _check_initial(run)
    return Checkpoints.Config(**settings, milestones=run.timeline.phase_end_steps, last_step=last_step(run))


def _check_initial(run: Run) -> None:
    """Only the first start of a run reads the weights it starts from; they may be gone by the next."""
    section = run.section("checkpoint")
    if section.initial_load_in_hf:
        raise ConfigError(["checkpoint.initial_load_in_hf: must be false; the folder shows what it holds"])
    if not committed_steps(run.run_dir / section.folder):
        check_initial(Path(section.initial_load_path), run.section("model"))


def _held_out(run: Run, prepared: Prepared) -> dict[str, Batch]:
    num_windows = run.section("validation").windows
    if not num_windows:
        return {}
    return held_out_windows(
        prepared,
        seq_len=run.timeline.seq_len,
        num_windows=num_windows,
        vocab_size=run.section("model").vocab_size,
        intra_document=run.section("data").intra_document,
    )


def _check_tokenizer(run: Run, prepared: Prepared) -> None:
    ids, rows = TextEncoder(prepared.tokenizer_dir).vocab_size, run.section("model").vocab_size
    if ids > rows:
        raise ConfigError(
            [f"model.vocab_size={rows}: the tokenizer in {prepared.tokenizer_dir} has {ids} ids; raise it"]
        )
