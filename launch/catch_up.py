"""Gives W&B what it lacks of a run that does not run: the rows that a killed process had not sent, and alerts.

    python -m launch.catch_up runs/mine

A start does that for what was before it; this is for the last one. `launch.requeue` calls it for a job that is not
started again. Of an offline run it writes what `wandb sync` uploads.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, ConfigError, RunError, answers_errors


@answers_errors({ConfigError: CONFIG_EXIT, RunError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m launch.catch_up", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    args = parser.parse_args(arguments)
    print("catch_up: reading the run", file=sys.stderr, flush=True)
    from train.checkpoint.commits import committed_steps
    from train.config.check import load_run
    from train.config.owner import owned
    from train.config.rundir import stored_settings
    from train.loop.history import read_history
    from train.metrics.wandb_files import run_id
    from train.metrics.weights_and_biases import RunFacts, catch_up

    run = load_run(args.run)
    if run.metrics.wandb == "disabled":
        raise ConfigError([f"{args.run}: the run has metrics.wandb=disabled, so W&B knows nothing of it"])
    newest_first = reversed(committed_steps(run.checkpoint_dir))
    with owned(args.run):
        run_id(args.run, [run.checkpoint_dir / f"step-{step}" for step in newest_first])
        facts = RunFacts(
            run_dir=args.run,
            name=run.run.name,
            settings=stored_settings(args.run),  # not as they are read on this machine
            timeline=run.timeline,
            history=read_history(args.run)._replace(code={}),  # the run's, not that of this checkout
        )
        catch_up(run.metrics, facts)
    where = "W&B" if run.metrics.wandb == "online" else f"{args.run / 'wandb'}, for `wandb sync` to upload,"
    print(f"{where} has all that is in {args.run / 'metrics.jsonl'}")
    return 0


if __name__ == "__main__":
    run_command(main)
