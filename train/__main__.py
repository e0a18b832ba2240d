"""Pretrains a model: compose -> check -> build -> train -> close.

    python -m train experiment=smoke parallelism=single                one process
    torchrun --nproc-per-node 4 -m train experiment=smoke              four ranks
    python -m train experiment=trinity_large --check                   only what would run, in seconds
    python -m train experiment=trinity_large --cfg job                 every setting as YAML
    python -m train experiment=smoke --info defaults                   which files of configs/ it is made of
    python -m train --config-dir ~/mine experiment=mine                options of your own: ~/mine/experiment/mine.yaml
    python -m train -m experiment=smoke parallelism=single optimizer.muon.lr=1e-2,2e-2
                                                                       two runs, smoke-lr-0.01 and smoke-lr-0.02

Overrides are Hydra's: `group=option` picks a file of configs/, `section.key=value` sets a value; a text with signs
that mean something there is quoted twice, 'run.dir="/data/step=5"'. Starting the same command again goes on from the
last complete checkpoint of run.dir. SIGTERM or SIGUSR1 to any rank stops all after the same step, with a checkpoint.
Exit status: 2 for what cannot work as configured, 3 for a run that had to stop, 10 after SIGTERM or SIGUSR1, 12 for one
that its watchdog ended, 129 after SIGHUP, 130 after Ctrl-C; of several runs, that of the first that failed.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from data_pipelines.base.command import RUN_SWEEP, overrides_parser, parse_overrides, run_command
from data_pipelines.base.errors import (
    CONFIG_EXIT,
    REQUEUE_EXIT,
    RESUME_ADVICE,
    RUN_EXIT,
    ConfigError,
    RunError,
    answers_errors,
)
from data_pipelines.base.rank import is_rank_0
from train.checkpoint.commits import newest_step
from train.engine.log import send_engine_log_to
from train.process.starts import recorded
from train.process.stop import StopWish, hearing_stop_signals
from train.process.warm import run_warm, warm_up

if TYPE_CHECKING:
    from train.config.run import Run


# OSError: a damaged shard, which only the rank that read it knows of
EXIT_CODES = {ConfigError: CONFIG_EXIT, RunError: RUN_EXIT, OSError: RUN_EXIT}


@answers_errors(EXIT_CODES)
def main(arguments: list[str]) -> int:
    """Exit code: 0, CONFIG_EXIT, RUN_EXIT or REQUEUE_EXIT (data_pipelines/base/errors.py)."""
    args = parse(arguments)
    if args.multirun:
        return train_each(args.overrides, only_check=args.check)
    if args.cfg or args.info:
        from train.config.start import print_settings

        return print_settings(args)
    announce("reading the configuration")
    if args.check:
        return print_check(args.overrides)
    stand_alone()
    with hearing_stop_signals() as wish:
        return train_one(args.overrides, wish)


def print_check(overrides: list[str]) -> int:
    """What would run, and whether it could in its folder."""
    from train.config.start import checked_run

    run = checked_run(overrides)
    from train.config.rundir import check_run_dir

    check_run_dir(run)
    say(checked(run))
    return 0


def train_one(overrides: list[str], wish: StopWish) -> int:
    """From the configuration to the end of the run, or to the step after which it was asked to stop."""
    from train.config.start import checked_run

    run = checked_run(overrides)
    from train.config.owner import owned
    from train.config.rundir import open_run_dir

    with owned(run.run_dir):
        open_run_dir(run)
        rewind_to_load_step(run)
        announce(f"{run.run_dir}: {resume_note(run)}")
        last_step = partial(newest_step, run.checkpoint_dir)
        with recorded(run.run_dir, ranks=run.world_size, last_step=last_step, exit_codes=EXIT_CODES, wish=wish) as end:
            if train(run, wish):
                end.exit_code, end.reason = REQUEUE_EXIT, f"asked to stop by {wish or 'a signal to another rank'}"
            elif run.last_step < run.timeline.num_steps:
                end.reason = f"reached run.stop_after_step={run.last_step}"
    if end.exit_code == REQUEUE_EXIT:
        end_together()
    return end.exit_code


def end_together() -> None:
    """A launcher kills the others when it sees one rank end with an error, and rank 0 has more to finish."""
    import torch.distributed as dist

    dist.barrier()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = overrides_parser("python -m train", description=__doc__, multirun=RUN_SWEEP)
    parser.add_argument(
        "--check", action="store_true", help="check the configuration, print what follows from it, stop"
    )
    return parse_overrides(parser, arguments)


def checked(run: Run) -> str:
    """The summary of a run that could start, with what should be known of this machine and of its first weights."""
    from train.config.rules.machine import recomputed_experts_problem
    from train.config.summary import summary

    notes = [recomputed_experts_problem(run.compile, run.parallelism, run.activation_checkpoint)]
    if run.checkpoint.initial_load_path:  # else a second of imports less
        from train.config.origin import check_origin

        notes.append(check_origin(run))
    return "\n".join([summary(run), *(f"note           {note}" for note in notes if note)])


def train_each(overrides: list[str], *, only_check: bool) -> int:
    """Trains every run of a sweep, each in a process of its own, or prints what each would be."""
    if "LOCAL_RANK" in os.environ:
        raise ConfigError(["--multirun: each rank of torchrun would start every run; use ./launch/local.sh --multirun"])
    announce("reading the configurations")
    from train.config.sweep import open_jobs, run_jobs

    jobs = open_jobs(overrides)
    if only_check:
        print("\n\n".join(f"== {job.label}\n{checked(job.run)}" for job in jobs))
        return 0
    if several := [job.label for job in jobs if job.run.world_size > 1]:
        raise ConfigError(
            [
                f"--multirun starts one process for each run, but {several[0]} needs more; add parallelism=single, or "
                "use ./launch/local.sh --multirun"
            ]
        )
    warm_up()
    return run_jobs(jobs, lambda job: run_warm(main, job.overrides))


def stand_alone() -> None:
    """What torchrun would have set, for a single process. Port 0: the system chooses one as it is opened; one that was
    looked for before could be taken in between."""
    if "LOCAL_RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def rewind_to_load_step(run: Run) -> None:
    """checkpoint.load_step: by rank 0, long before the engine of any rank looks for the last checkpoint."""
    from train.checkpoint.rewind import rewind

    if run.checkpoint.load_step != -1 and is_rank_0():
        done = rewind(run.run_dir, run.checkpoint_dir, run.checkpoint.load_step)
        announce(
            done
            or f"checkpoint.load_step={run.checkpoint.load_step}: was done before; to go back once more, give the last "
            f"{run.run_dir}/rewound-* another name"
        )


def train(run: Run, wish: StopWish) -> bool:
    """Returns whether it was stopped before its last step, as it was asked to."""
    from train.loop.build import trainer_config

    send_engine_log_to(run.run_dir / "engine.log")
    try:
        trainer = trainer_config(run, wish).build()
    except (ValueError, OSError) as error:
        raise ConfigError(str(error).splitlines()) from error
    try:
        trainer.train()
    finally:
        trainer.close()
    return trainer.is_stopped


def resume_note(run: Run) -> str:
    step = newest_step(run.checkpoint_dir)
    if step >= run.last_step:
        return (
            f"nothing to train: step {step:,} is done, and the run ends at step {run.last_step:,} "
            "(run.stop_after_step, schedule)"
        )
    if step:
        begins = f"going on after step {step:,} of {run.timeline.num_steps:,}"
    else:
        origin = run.checkpoint.initial_load_path
        begins = f"starting at {origin}" if origin else "starting"
    return f"{begins}; the engine takes some seconds to load"


def announce(text: str) -> None:
    say(f"train: {text}")


def say(text: str) -> None:
    """Once, however many ranks there are."""
    if is_rank_0():
        print(text, flush=True)


if __name__ == "__main__":
    # By its name, under which the processes of a sweep find it: in them, __main__ is something else.
    run_command(import_module("train.__main__").main, advice=RESUME_ADVICE)
