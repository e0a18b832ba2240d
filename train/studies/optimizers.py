"""Muon or AdamW? Trains the smoke problem with each, at several peak rates and seeds, on equally many tokens.

    python -m train.studies.optimizers runs/optimizers                              three rates, three seeds: 18 runs
    python -m train.studies.optimizers runs/higher --rates muon:0.02,adamw:0.008    other rates
    python -m train.studies.optimizers runs/long schedule.token_scale=5e-8          longer: overrides are Hydra's

Every run is one of `python -m train experiment=optimizer_study`: the smoke run on one core on a quarter of its tokens.
Runs differ in the optimizer of the hidden matrices (optimizer.hidden), its peak rate, and the seed of weights and data
order. The rate of AdamW is that of embedding, head and gains, too. Beside Muon these keep the experiment's, which is
what the study found best for AdamW. OUT_DIR gets a run directory for each run, optimizers.md (the table) and
optimizers.png (the picture). The same command again goes on where it was stopped.

Exit code: 0; 2 for what cannot work as configured; 3 for a run that had to stop.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import argparse
import os
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.base.command import run_command
from data_pipelines.base.errors import CONFIG_EXIT, RESUME_ADVICE, RUN_EXIT, ConfigError, RunError, answers_errors
from train.process.warm import warm_up
from train.studies.cases import (
    Case,
    configurations,
    items,
    open_all,
    open_one,
    parse_study,
    run_all,
    study_parser,
)
from train.studies.optimizer_measures import HEADING, Trial, conclusion, table
from train.studies.optimizer_picture import draw
from train.studies.tables import legend

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from train.config.run import Run

RATES = "muon:4e-2,muon:8e-2,muon:1.6e-1,adamw:1.6e-2,adamw:3.2e-2,adamw:6.4e-2"
SEEDS = "0,1,2"


@answers_errors({ConfigError: CONFIG_EXIT, RunError: RUN_EXIT, OSError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    rates, seeds = items(args.rates), items(args.seeds)
    if args.info:
        from data_pipelines.settings.compose import info

        print(info(args.info, settings_of(*parsed(rates[0]), seeds[0], args.overrides)))
        return 0
    if args.cfg:
        print(configurations(open_cases(rates, seeds, args.out, args.overrides)))
        return 0
    print(
        f"optimizer study: {', '.join(rates)}, each with the seeds {', '.join(seeds)}, in {args.out}; "
        "the engine takes some seconds to load",
        flush=True,
    )
    warm_up()
    cases = open_cases(rates, seeds, args.out, args.overrides)
    run_all(cases, at_once=args.at_once, needs_held_out=True)
    print(f"\n{write_results(cases, args.out)}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = study_parser("python -m train.studies.optimizers", description=__doc__)
    parser.add_argument(
        "--rates",
        metavar="OPTIMIZER:RATE,...",
        default=RATES,
        help="peak rates of the optimizers of hidden matrices (default: %(default)s)",
    )
    parser.add_argument("--seeds", metavar="SEED,...", default=SEEDS, help="of debug.seed (default: %(default)s)")
    return parse_study(parser, arguments)


def open_cases(rates: list[str], seeds: list[str], out: Path, overrides: list[str]) -> list[Case]:
    """A run of each rate with each seed. Raises ConfigError with all problems; makes nothing."""
    openers = [partial(open_case, rate, seed, out, overrides) for rate, seed in product(rates, seeds)]
    return open_all(openers, option="--rates and --seeds")


def open_case(rate: str, seed: str, out: Path, overrides: list[str]) -> Case:
    optimizer, peak = parsed(rate)
    settings = settings_of(optimizer, peak, seed, overrides)
    case = open_one(f"{optimizer}-{peak}-seed-{seed}", settings, out=out, label=label)
    if not case.run.validation.windows:
        raise ConfigError(["validation.windows=0: held-out losses are what the study compares; leave it out"])
    return case


def parsed(rate: str) -> tuple[str, str]:
    """(optimizer, peak rate as it was written). Raises ConfigError."""
    optimizer, _, peak = rate.partition(":")
    if not (optimizer and peak):
        raise ConfigError([f"--rates: got {rate!r}; write OPTIMIZER:RATE, as in muon:0.02"])
    return optimizer, peak


def settings_of(optimizer: str, peak: str, seed: str, overrides: list[str]) -> list[str]:
    own = [f"optimizer.hidden={optimizer}", f"optimizer.{optimizer}.lr={peak}", f"debug.seed={seed}"]
    return ["experiment=optimizer_study", *overrides, *own]


def rate_of(run: Run) -> float:
    return run.optimizer.of(run.optimizer.hidden).lr


def label(run: Run) -> str:
    return f"{run.optimizer.hidden} {rate_of(run):g}, seed {run.seed}"


def write_results(cases: list[Case], out: Path) -> str:
    """Writes table and picture, and returns the table with where they are."""
    trials = [Trial(case.run.optimizer.hidden, rate_of(case.run), case.run.seed, case.rows()) for case in cases]
    rows = trials[0].rows
    headline = f"{len(rows)} steps, {rows[-1]['tokens']:,} tokens, {len({trial.seed for trial in trials})} seeds"
    text = "\n\n".join([headline, table(trials), legend(HEADING), "\n".join(conclusion(trials))]) + "\n"
    table_file, picture = out / "optimizers.md", out / "optimizers.png"
    table_file.write_text(text, encoding="utf-8")
    draw(trials, title=headline, path=picture)
    return f"{text}\ntable:   {table_file}\npicture: {picture}"


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # several runs at a time, and the same figures on a machine with GPUs
    run_command(main, advice=RESUME_ADVICE)
