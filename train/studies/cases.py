"""What every study has: cases, each a run of the real trainer that differs from the others in one respect.

    command line -> open_all (every problem at once) -> run_all -> rows of each case

Imports nothing that takes time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.base.command import add_overrides, command_parser, parse_overrides, quoted
from data_pipelines.base.errors import ConfigError, RunError
from data_pipelines.base.progress import progress_bar
from train.__main__ import main as train
from train.metrics.jsonl import count_rows, require_rows
from train.metrics.row import Row
from train.process.warm import nothing_left_behind, start_warm

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from data_pipelines.shards.reader import OpenData
    from train.config.run import Run

POLL_S = 0.5
LAST_WORDS = 15
"""Lines of its log that are shown of a run that failed."""


@dataclass(frozen=True, eq=False)
class Case:
    """One run of a study."""

    label: str
    """What tells it from the others, for people."""
    settings: list[str]
    """Overrides of python -m train."""
    run: Run

    @property
    def log(self) -> Path:
        return self.run.run_dir / "log.txt"

    @property
    def num_steps(self) -> int:
        return self.run.last_step

    def start(self) -> ForkServerProcess:
        return start_warm(train, self.settings, log=self.log, num_threads=1)

    def num_finished_steps(self) -> int:
        return count_rows(self.run.run_dir)

    def rows(self) -> list[Row]:
        """Of all its steps. Raises ValueError where it has none yet."""
        return require_rows(self.run.run_dir)

    def outcome(self, exit_code: int | None) -> str:
        """What to say of a run that has ended. Raises RunError where it failed."""
        if exit_code:
            words = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:]
            end = "\n".join(f"  | {line}" for line in words)
            raise RunError(f"{self.label} ended with exit code {exit_code}. The end of {self.log}:\n{end}")
        last = self.rows()[-1]
        return f"{self.label}: step {last['step']}, loss {last['loss']:.3f}, MaxVio {last['max_violation']:.2f}"


def study_parser(prog: str, *, description: str | None) -> argparse.ArgumentParser:
    """With the arguments that every study has. They are read by parse_study."""
    parser = command_parser(prog, description=description)
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="folder for the runs, the table and the picture")
    add_overrides(parser)
    parser.add_argument(
        "--at-once",
        metavar="N",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="runs at the same time, one thread each (default: one for each core, %(default)s)",
    )
    return parser


def parse_study(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    args = parse_overrides(parser, arguments)
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"OUT_DIR: {args.out} is a file; name a folder")
    if args.at_once < 1:
        parser.error(f"--at-once: must be at least 1, got {args.at_once}")
    return args


def items(text: str) -> list[str]:
    """Of an option that lists cases, each once."""
    return list(dict.fromkeys(item.strip() for item in text.split(",")))


def open_one(name: str, settings: list[str], *, out: Path, label: Callable[[Run], str]) -> Case:
    """The run in OUT_DIR/`name`. Raises ConfigError, also for what lies in its folder; makes nothing.

    label: of the run, in which every setting is known.
    """
    from data_pipelines.settings.compose import compose
    from train.config.check import check
    from train.config.rundir import check_run_dir

    settings = [*settings, f"run.name={quoted(name)}", f"run.dir={quoted(str(out / name))}"]
    run = check(compose(settings))
    check_run_dir(run)
    return Case(label(run), settings, run)


def open_all(openers: Sequence[Callable[[], Case]], *, option: str) -> list[Case]:
    """The case of each opener. Raises ConfigError with the problems of all, and where two have the same label.

    option: what the cases are chosen by.
    """
    cases: list[Case] = []
    problems: list[str] = []
    for opener in openers:
        try:
            cases.append(opener())
        except ConfigError as error:
            problems += error.problems
    labels = [case.label for case in cases]
    problems += [f"{option}: {label} is there twice" for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # what is wrong with all of them is said once
    return cases


def configurations(cases: list[Case]) -> str:
    """Of every run, as YAML documents."""
    from data_pipelines.settings.compose import to_yaml

    return "\n---\n".join(f"# {case.label}\n{to_yaml(case.run.settings)}" for case in cases)


def run_all(cases: list[Case], *, at_once: int, needs_held_out: bool = False) -> None:
    """Trains every case to its end, going on with those that were begun. Raises ConfigError before the first starts,
    and RunError as soon as one fails; the others are stopped then.

    needs_held_out: whether the study has no result where the data hold nothing out.
    """
    refuse_all_owned(cases)
    data = prepare_data(cases[0].run)
    if needs_held_out and not data.held_out:
        raise ConfigError(
            [
                "data: no source has held-out text, whose loss the study compares; name some, for shards as "
                "data.sources.NAME.held_out"
            ]
        )
    open_run_dirs(cases)
    train_all(cases, at_once=at_once)


def refuse_all_owned(cases: list[Case]) -> None:
    """Raises ConfigError where another job trains in one of their folders."""
    from train.config.owner import refuse_owned

    for case in cases:
        refuse_owned(case.run.run_dir)


def open_run_dirs(cases: list[Case]) -> None:
    from train.config.rundir import open_run_dir

    for case in cases:
        open_run_dir(case.run)


def prepare_data(run: Run) -> OpenData:
    """Done here, for its progress bar, and because all runs would wait for one of them."""
    from data_pipelines.corpora.preparation import prepare

    try:
        return prepare(run.data)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def train_all(cases: list[Case], *, at_once: int) -> None:
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


def step_tokens(run: Run) -> int:
    """Of the first step."""
    return run.timeline.step(1).num_windows * run.timeline.seq_len
