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
import sys
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.base.command import add_overrides, command_parser, parse_overrides, quoted, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RESUME_ADVICE, RUN_EXIT, ConfigError, RunError, answers_errors
from data_pipelines.base.progress import progress_bar
from train.__main__ import main as train
from train.metrics.jsonl import count_rows, require_rows
from train.process.warm import nothing_left_behind, start_warm, warm_up
from train.studies.measures import legend, table
from train.studies.picture import Drawn, draw

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from train.config.run import Run

RULES = "none,sign,smebu,linear,sign:0.1,smebu:0.1,linear:0.1"
POLL_S = 0.5
LAST_WORDS = 15
"""Lines of its log that are shown of a run that failed."""


@dataclass(frozen=True, eq=False)
class Case:
    """A rule at a speed: one run."""

    name: str
    settings: list[str]
    """Overrides of python -m train."""
    run: Run

    @property
    def kind(self) -> str:
        return self.run.balance.kind

    @property
    def speed(self) -> float | None:
        """None where no rule moves the biases."""
        return None if self.kind == "none" else self.run.balance.speed

    @property
    def label(self) -> str:
        return self.kind if self.speed is None else f"{self.kind} {self.speed:g}"

    @property
    def log(self) -> Path:
        return self.run.run_dir / "log.txt"

    @property
    def num_steps(self) -> int:
        return min(self.run.timeline.num_steps, self.run.run.stop_after_step or self.run.timeline.num_steps)

    def start(self) -> ForkServerProcess:
        return start_warm(train, self.settings, log=self.log, num_threads=1)

    def num_finished_steps(self) -> int:
        return count_rows(self.run.run_dir)

    def outcome(self, exit_code: int | None) -> str:
        """What to say of a run that has ended. Raises RunError where it failed."""
        if exit_code:
            words = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:]
            end = "\n".join(f"  | {line}" for line in words)
            raise RunError(f"{self.label} ended with exit code {exit_code}. The end of {self.log}:\n{end}")
        last = require_rows(self.run.run_dir)[-1]
        return f"{self.label}: step {last['step']}, loss {last['loss']:.3f}, MaxVio {last['max_violation']:.2f}"


@answers_errors({ConfigError: CONFIG_EXIT, RunError: RUN_EXIT, OSError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    rules = list(dict.fromkeys(rule.strip() for rule in args.rules.split(",")))
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
    open_run_dirs(cases)
    prepare_data(cases[0].run)
    train_all(cases, at_once=args.at_once)
    print(f"\n{write_results(cases, args.out)}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("python -m train.studies.balance", description=__doc__)
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="folder for the runs, the table and the picture")
    add_overrides(parser)
    parser.add_argument(
        "--rules",
        metavar="RULE[:SPEED],...",
        default=RULES,
        help="rules of configs/balance; without a speed, that of configs/experiment/balance_study.yaml "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--at-once",
        metavar="N",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="runs at the same time, one thread each (default: one for each core, %(default)s)",
    )
    args = parse_overrides(parser, arguments)
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"OUT_DIR: {args.out} is a file; name a folder")
    if args.at_once < 1:
        parser.error(f"--at-once: must be at least 1, got {args.at_once}")
    return args


def open_cases(rules: list[str], out: Path, overrides: list[str]) -> list[Case]:
    """The run of each rule. Raises ConfigError with all problems, also of what lies in its folder; makes nothing."""
    cases: list[Case] = []
    problems: list[str] = []
    for rule in rules:
        try:
            cases.append(open_case(rule, out, overrides))
        except ConfigError as error:
            problems += error.problems
    labels = [case.label for case in cases]
    problems += [f"--rules: {label} is there twice" for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # what is wrong with all of them is said once
    return cases


def open_run_dirs(cases: list[Case]) -> None:
    """Raises ConfigError, before any is made, where another job trains in one of them."""
    from train.config.owner import refuse_owned
    from train.config.rundir import open_run_dir

    for act in (lambda run: refuse_owned(run.run_dir), open_run_dir):
        for case in cases:
            act(case.run)


def configurations(cases: list[Case]) -> str:
    """Of every run, as YAML documents."""
    from data_pipelines.settings.compose import to_yaml

    return "\n---\n".join(f"# {case.label}\n{to_yaml(case.run.settings)}" for case in cases)


def open_case(rule: str, out: Path, overrides: list[str]) -> Case:
    from data_pipelines.settings.compose import compose
    from train.config.check import check
    from train.config.rundir import check_run_dir

    kind, colon, speed = rule.partition(":")
    if colon and (kind == "none" or not speed):
        raise ConfigError([f"--rules: got {rule!r}; write RULE:SPEED, as in smebu:0.1, or none, which has no speed"])
    name = f"{kind}-{speed}" if speed else kind
    settings = settings_of(kind, overrides)
    settings += [f"run.name={quoted(name)}", f"run.dir={quoted(str(out / name))}", "metrics.panels_every=1"]
    settings += [f"balance.speed={speed}"] if speed else []
    case = Case(name, settings, check(compose(settings)))
    if case.kind != kind:
        raise ConfigError([f"balance: each run of the study has its own rule; choose them with --rules={case.kind}"])
    check_run_dir(case.run)
    return case


def settings_of(kind: str, overrides: list[str]) -> list[str]:
    """What the runs of a rule have in common."""
    return ["experiment=balance_study", f"balance={kind}", *overrides]


def prepare_data(run: Run) -> None:
    """Done here, for its progress bar, and because all runs would wait for one of them."""
    from data_pipelines.corpora.preparation import prepare

    try:
        prepare(run.data)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def train_all(cases: list[Case], *, at_once: int) -> None:
    """Trains every case to its end. Raises RunError as soon as one fails; the others are stopped then."""
    waiting = [case for case in reversed(cases) if case.num_finished_steps() < case.num_steps]
    running: dict[int, tuple[Case, ForkServerProcess]] = {}
    total = sum(case.num_steps for case in cases)
    with nothing_left_behind(), progress_bar(total=total, unit="step", file=sys.stdout) as bar:
        while waiting or running:
            while waiting and len(running) < at_once:
                process = waiting[-1].start()
                running[process.sentinel] = waiting.pop(), process
            for sentinel in connection.wait(list(running), timeout=POLL_S):
                case, process = running.pop(sentinel)  # type: ignore[arg-type]  (sentinels are what it was given)
                process.join()
                bar.write(case.outcome(process.exitcode), file=sys.stdout)
            bar.update(sum(case.num_finished_steps() for case in cases) - bar.n)


def write_results(cases: list[Case], out: Path) -> str:
    """Writes table and picture, and returns the table with where they are."""
    rows = {case: require_rows(case.run.run_dir) for case in cases}
    run = cases[0].run
    experts, top_k = run.model.num_experts, run.model.top_k
    num_steps, step_tokens = len(rows[cases[0]]), run.timeline.step(1).num_windows * run.timeline.seq_len
    headline = (
        f"{num_steps} steps of {step_tokens:,} tokens, {experts} experts in a layer, {top_k} for a token "
        f"(MaxVio is at most {experts / top_k - 1:g})"
    )
    text = f"{headline}\n\n{table((case.label, rows[case]) for case in cases)}\n\n{legend()}\n"
    table_file, picture = out / "balance.md", out / "balance.png"
    table_file.write_text(text, encoding="utf-8")
    draw([Drawn(case.kind, case.speed, rows[case]) for case in cases], title=headline, path=picture)
    return f"{text}\ntable:   {table_file}\npicture: {picture}"


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # several runs at a time, and the same figures on a machine with GPUs
    run_command(main, advice=RESUME_ADVICE)
