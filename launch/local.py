"""A whole run on this machine: check -> prepare data -> train on all ranks -> export -> report.

    ./launch/local.sh                                                the smoke experiment, on four ranks
    ./launch/local.sh run.stop_after_step=20                         only its first 20 steps
    ./launch/local.sh run.name=calm balance=sign balance.speed=1e-3  with other settings, in runs/calm
    ./launch/local.sh run.name=web data=files data.sources.web.glob='texts/**/*.txt'
                                                                     your own text
    ./launch/local.sh -m run.name=rates optimizer.muon.lr=1e-2,2e-2  two runs, rates-lr-0.01 and rates-lr-0.02
    ./launch/local.sh --config-dir ~/mine experiment=mine            options of your own: ~/mine/experiment/mine.yaml
    ./launch/local.sh --cfg job                                      every setting as YAML; no run

Overrides are Hydra's: `group=option` picks a file of configs/, `section.key=value` sets a value; the config.yaml of a
run shows all that can be set. Starting the same command again goes on from the last complete checkpoint of run.dir.
No rank is started before the configuration has passed every check.

Exit code: 0; 2 for a configuration that cannot run; else that of the first rank that failed (128 + n: by signal n).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.base.command import RUN_SWEEP, overrides_parser, parse_overrides, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RESUME_ADVICE, ConfigError, Stopped, answers_errors, fail
from launch.ranks import launch_ranks
from train.process.warm import run_warm, warm_up

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from train.config.run import Run


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = overrides_parser("./launch/local.sh", description=__doc__, multirun=RUN_SWEEP)
    args = parse_overrides(parser, arguments)
    args.overrides = with_experiment(args.overrides)
    if args.cfg or args.info:
        from train.config.start import print_settings

        return print_settings(args)
    return run_each(args.overrides) if args.multirun else run_all_phases(args.overrides)


def run_all_phases(overrides: list[str]) -> int:
    """One run from its configuration to its report; returns the exit code."""
    try:
        run = check(overrides)
        prepare_data(run)
        train(run, overrides)
        model_dir = export(run)
        report(run)
    except Stopped as stop:
        print(file=sys.stderr)
        return fail([str(stop)], stop.exit_code)
    print(f"\nload the trained model, in any directory:\n  {how_to_load(model_dir)}")
    return 0


def run_each(overrides: list[str]) -> int:
    """Every run of a sweep."""
    announce(f"configurations: {shlex.join(overrides)}")
    warm_up()
    from train.config.sweep import open_jobs, run_jobs

    return run_jobs(open_jobs(overrides), lambda job: run_all_phases(job.overrides))


def with_experiment(overrides: list[str]) -> list[str]:
    """The smoke experiment, unless the user names another."""
    chosen = any(override.lstrip("+").startswith("experiment=") for override in overrides)
    return overrides if chosen else ["experiment=smoke", *overrides]


def check(overrides: list[str]) -> Run:
    """The checked configuration, with its run directory; all its problems at once if there are any."""
    announce(f"configuration: {shlex.join(overrides)}")
    warm_up()
    from data_pipelines.settings.compose import compose
    from train.config.check import check
    from train.config.origin import check_origin
    from train.config.owner import refuse_owned
    from train.config.rundir import open_run_dir

    try:
        run = check(compose(overrides))
        refuse_owned(run.run_dir)
        check_origin(run)
        open_run_dir(run)
    except ConfigError as err:
        raise Stopped(str(err), exit_code=CONFIG_EXIT) from err
    return run


def prepare_data(run: Run) -> None:
    """Done here, and not left to the ranks, for its progress bar and because they would all wait for one of them."""
    announce(f"data: {run.data.kind}")
    from data_pipelines.corpora.preparation import prepare

    try:
        prepare(run.data)
    except (ValueError, OSError) as err:
        raise Stopped(str(err), exit_code=CONFIG_EXIT) from err


def train(run: Run, overrides: list[str]) -> None:
    announce(f"training: {run.world_size} ranks, results in {run.run_dir}")
    from train.__main__ import main

    launch_ranks(main, overrides, num_ranks=run.world_size, run_dir=run.run_dir)


def export(run: Run) -> Path:
    model_dir = run.run_dir / "hf"
    announce(f"export: {model_dir}")
    from train.export import main

    if exit_code := run_warm(main, [str(run.run_dir), str(model_dir)]):
        raise Stopped(f"the export failed; the run itself is complete in {run.run_dir}", exit_code=exit_code)
    return model_dir


def report(run: Run) -> None:
    announce("report")
    from train.report import write_report

    print(f"\n{write_report(run.run_dir)}")


def how_to_load(model_dir: Path) -> str:
    """A shell line that lets the exported model write on."""
    code = (
        f'from transformers import pipeline; write = pipeline("text-generation", "{model_dir.resolve()}"); '
        'print(write("def main(", max_new_tokens=40)[0]["generated_text"])'
    )
    return shlex.join([sys.executable, "-c", code])


def announce(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    run_command(main, advice=RESUME_ADVICE)
