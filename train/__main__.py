"""Pretrains a model: compose -> check -> build -> train -> close.

    python -m train experiment=smoke parallelism=single                one process
    torchrun --nproc-per-node 4 -m train experiment=smoke              four ranks
    python -m train experiment=trinity_large --check                   only what would run, in seconds

Overrides are Hydra's: `group=option` picks a file of configs/, `section.key=value` sets a value. Starting the same
command again goes on from the last complete checkpoint of run.dir. Exit status: 2 for what cannot work as configured,
3 for a run that had to stop.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from data_pipelines.base.command import overrides_parser
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, ConfigError, RunError, fail
from data_pipelines.base.rank import is_rank_0
from train.engine.log import send_engine_log_to

if TYPE_CHECKING:
    from train.config.run import Run


def main(arguments: list[str]) -> int:
    """Exit code: 0, CONFIG_EXIT or RUN_EXIT (data_pipelines/base/errors.py)."""
    args = parse(arguments)
    if not args.check:
        stand_alone()
    announce("reading the configuration")
    from train.config.start import checked_run

    try:
        run = checked_run(args.overrides)
        from train.config.rundir import open_run_dir
        from train.config.summary import summary

        if args.check:
            print(summary(run))
            return 0
        open_run_dir(run)
        announce(f"{run.run_dir}: {resume_note(run)}; the engine takes some seconds to load")
        train(run)
    except ConfigError as error:
        return fail(error.problems, CONFIG_EXIT)
    except (RunError, OSError) as error:  # OSError: a damaged shard, which only the rank that read it knows of
        return fail([str(error)], RUN_EXIT)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = overrides_parser("python -m train", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="check the configuration, print what follows from it, stop"
    )
    return parser.parse_intermixed_args(arguments)


def stand_alone() -> None:
    """What torchrun would have set, for a single process."""
    if "LOCAL_RANK" in os.environ:
        return
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def train(run: Run) -> None:
    from train.loop.build import trainer_config

    send_engine_log_to(run.run_dir / "engine.log")
    try:
        trainer = trainer_config(run).build()
    except (ValueError, OSError) as error:
        raise ConfigError(str(error).splitlines()) from error
    try:
        trainer.train()
    finally:
        trainer.close()


def resume_note(run: Run) -> str:
    from train.checkpoint.commits import committed_steps

    section = run.checkpoint
    if steps := committed_steps(run.run_dir / section.folder):
        return f"going on after step {steps[-1]:,} of {run.timeline.num_steps:,}"
    return f"starting at {section.initial_load_path}" if section.initial_load_path else "starting"


def announce(text: str) -> None:
    if is_rank_0():
        print(f"train: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
