"""A sweep: one run for each combination of values, `-m optimizer.muon.lr=1e-2,2e-2 balance=sign,smebu`.

All configurations are checked before the first run starts. The runs go one after the other, each in its own folder; one
that fails does not stop the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from data_pipelines.base.command import quoted
from data_pipelines.base.compose import compose
from data_pipelines.base.errors import ConfigError
from data_pipelines.base.overrides import Assignment, in_shell, sweep
from data_pipelines.base.signals import SIGNALS
from train.config.run import Run
from train.config.start import checked_run
from train.metrics.jsonl import require_rows

NAMING = ("run.name", "run.dir")
"""Settings that give each run its place already when they have several values."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    label: str
    """What is special to it: 'lr=0.01 balance=sign'."""
    overrides: list[str]
    run: Run


def open_jobs(overrides: list[str]) -> list[Job]:
    """Every run of the sweep, checked. Raises ConfigError with all problems; makes nothing."""
    jobs: list[Job] = []
    problems: list[str] = []
    for assignment, of_job in sweep(overrides):
        try:
            jobs.append(_open_job(assignment, of_job))
        except ConfigError as error:
            problems += error.problems
    problems += _shared_folders(jobs)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # what is wrong with all of them is said once
    return jobs


def run_jobs(jobs: Sequence[Job], start: Callable[[Job], int]) -> int:
    """Runs them one after the other and prints what became of each. Returns the first exit code that is not 0.

    start: trains a job and returns its exit code. A job that was stopped by a signal ends the sweep.
    """
    exit_codes: list[int] = []
    for number, job in enumerate(jobs, start=1):
        print(f"\n== run {number} of {len(jobs)}: {job.label}, in {job.run.run_dir}", flush=True)
        exit_codes.append(start(job))
        if exit_codes[-1] - 128 in SIGNALS:
            break
    print(f"\n{_table(jobs, exit_codes)}", flush=True)
    return next(filter(None, exit_codes), 0)


def _open_job(assignment: Assignment, overrides: list[str]) -> Job:
    short = _short_names(assignment)
    label = " ".join(f"{short[key]}={value}" for key, value in assignment.items())
    if suffix := "".join(_suffix(short[key], value) for key, value in assignment.items() if key not in NAMING):
        overrides = [*overrides, f"run.name={quoted(compose(overrides)['run']['name'] + suffix)}"]
    try:
        return Job(label or "the only one", overrides, checked_run(overrides))
    except ConfigError as error:
        raise ConfigError(error.problems if not label else [_of_job(label, one) for one in error.problems]) from error


def _of_job(label: str, problem: str) -> str:
    """A problem of one value is said with it; one that names no setting of the sweep is the same for all."""
    keys = [part.partition("=")[0] for part in label.split()]
    return f"{problem} (in the run {label})" if any(key in problem for key in keys) else problem


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """The end of each key that no other has: lr, or muon.lr beside adamw.lr."""
    keys = list(keys)
    short: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[place:]) for place in reversed(range(len(parts)))]
        others = [f".{other}" for other in keys if other != key]
        short[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return short


def _suffix(name: str, value: str) -> str:
    """As a part of a folder's name, without what a shell or Hydra would read as a sign."""
    text = re.sub(r"[^\w.+-]+", "_", value).strip("_")
    return f"-{name}-{text}"


def _shared_folders(jobs: list[Job]) -> list[str]:
    folders = [job.run.run.dir for job in jobs]
    return [
        f"run.dir={folder}: {folders.count(folder)} runs of the sweep would share it; leave run.dir out, or write "
        + in_shell("run.dir", f"{folder}/${{run.name}}")
        for folder in dict.fromkeys(folders)
        if folders.count(folder) > 1
    ]


def _table(jobs: Sequence[Job], exit_codes: list[int]) -> str:
    """A line a run: its values, how far it came, its last loss, how it ended."""
    lines = [("run", "step", "loss", "exit code", "folder")]
    for number, job in enumerate(jobs):
        ended = str(exit_codes[number]) if number < len(exit_codes) else "not started"
        lines.append((job.label, *_progress(job.run), ended, str(job.run.run_dir)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _progress(run: Run) -> tuple[str, str]:
    try:
        last = require_rows(run.run_dir)[-1]
    except (ValueError, OSError):  # no finished step
        return "-", "-"
    return f"{last['step']:,}", f"{last['loss']:.4f}"
