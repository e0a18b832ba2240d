"""Compares the rules that balance experts: trains one small, skewed problem with each, on this machine's CPU.

    python -m train.studies.balance runs/balance                             every rule, at two speeds: minutes
    python -m train.studies.balance runs/clamp --rules smebu:0.3,linear:0.3  two of them, faster still
    python -m train.studies.balance runs/wide model.num_experts=64           another problem: overrides are Hydra's

Every run is one of `python -m train experiment=balance_study`: a router at high learning rates, and text whose kind
changes twice, at once. Runs differ in the rule (balance) and its speed (balance.speed) only. OUT_DIR gets a run
directory for each, balance.md (the table) and balance.png (the picture). The same command again goes on where it was
stopped.

Exit code: 0; 2 for what cannot work as configured; 3 for a run that had to stop.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.base.command import run_command
from data_pipelines.base.errors import CONFIG_EXIT, RESUME_ADVICE, RUN_EXIT, ConfigError, RunError, answers_errors
from train.process.warm import warm_up
from train.studies.balance_measures import HEADING, table
from train.studies.balance_picture import Drawn, draw
from train.studies.cases import (
    Case,
    configurations,
    items,
    open_all,
    open_one,
    parse_study,
    run_all,
    step_tokens,
    study_parser,
)
from train.studies.tables import legend

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from train.config.run import Run

RULES = "none,sign,smebu,linear,sign:0.1,smebu:0.1,linear:0.1"


@answers_errors({ConfigError: CONFIG_EXIT, RunError: RUN_EXIT, OSError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    rules = items(args.rules)
    if args.info:
        from data_pipelines.settings.compose import info

        print(info(args.info, settings_of(rules[0].partition(":")[0], args.overrides)))
        return 0
    if args.cfg:
        print(configurations(open_cases(rules, args.out, args.overrides)))
        return 0
    print(f"balance study: {', '.join(rules)} in {args.out}; the engine takes some seconds to load", flush=True)
    warm_up()
    cases = open_cases(rules, args.out, args.overrides)
    run_all(cases, at_once=args.at_once)
    print(f"\n{write_results(cases, args.out)}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = study_parser("python -m train.studies.balance", description=__doc__)
    parser.add_argument(
        "--rules",
        metavar="RULE[:SPEED],...",
        default=RULES,
        help="rules of configs/balance; without a speed, that of configs/experiment/balance_study.yaml "
        "(default: %(default)s)",
    )
    return parse_study(parser, arguments)


def open_cases(rules: list[str], out: Path, overrides: list[str]) -> list[Case]:
    """A run of each rule. Raises ConfigError with all problems; makes nothing."""
    return open_all([partial(open_case, rule, out, overrides) for rule in rules], option="--rules")


def open_case(rule: str, out: Path, overrides: list[str]) -> Case:
    kind, colon, speed = rule.partition(":")
    if colon and (kind == "none" or not speed):
        raise ConfigError([f"--rules: got {rule!r}; write RULE:SPEED, as in smebu:0.1, or none, which has no speed"])
    settings = [*settings_of(kind, overrides), "metrics.panels_every=1"]
    settings += [f"balance.speed={speed}"] if speed else []
    case = open_one(f"{kind}-{speed}" if speed else kind, settings, out=out, label=label)
    if case.run.balance.kind != kind:
        raise ConfigError(
            [f"balance: each run of the study has its own rule; choose them with --rules={case.run.balance.kind}"]
        )
    return case


def settings_of(kind: str, overrides: list[str]) -> list[str]:
    """What the runs of a rule have in common."""
    return ["experiment=balance_study", f"balance={kind}", *overrides]


def speed_of(run: Run) -> float | None:
    """None where no rule moves the biases."""
    return None if run.balance.kind == "none" else run.balance.speed


def label(run: Run) -> str:
    speed = speed_of(run)
    return run.balance.kind if speed is None else f"{run.balance.kind} {speed:g}"


def write_results(cases: list[Case], out: Path) -> str:
    """Writes table and picture, and returns the table with where they are."""
    rows = {case: case.rows() for case in cases}
    run = cases[0].run
    num_steps, experts, top_k = len(rows[cases[0]]), run.model.num_experts, run.model.top_k
    headline = (
        f"{num_steps} steps of {step_tokens(run):,} tokens, {experts} experts in a layer, {top_k} for a token "
        f"(MaxVio is at most {experts / top_k - 1:g})"
    )
    text = f"{headline}\n\n{table((case.label, rows[case]) for case in cases)}\n\n{legend(HEADING)}\n"
    table_file, picture = out / "balance.md", out / "balance.png"
    table_file.write_text(text, encoding="utf-8")
    draw([Drawn(case.run.balance.kind, speed_of(case.run), rows[case]) for case in cases], title=headline, path=picture)
    return f"{text}\ntable:   {table_file}\npicture: {picture}"


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # several runs at a time, and the same figures on a machine with GPUs
    run_command(main, advice=RESUME_ADVICE)
