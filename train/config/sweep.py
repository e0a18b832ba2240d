"""The runs of a sweep (data_pipelines/settings/sweep.py), `-m optimizer.muon.lr=1e-2,2e-2 balance=sign,smebu`.

All configurations and run directories are checked before the first run starts. The runs go one after the other, each in
its own folder; one that fails does not stop the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count

from data_pipelines.base.command import aligned, quoted
from data_pipelines.base.errors import ConfigError
from data_pipelines.base.signals import SIGNALS
from data_pipelines.settings.compose import compose
from data_pipelines.settings.overrides import in_shell
from data_pipelines.settings.sweep import Combination, check_each, combinations, short_names
from train.config.owner import refuse_owned
from train.config.run import Run
from train.config.rundir import check_run_dir
from train.config.start import checked_run
from train.metrics.jsonl import require_rows

NAMING = ("run.name", "run.dir")
"""Settings that give each run its place already when they have several values."""
VALUE_CHARS = 40
"""Of a value in the name of a run; the names of folders end at 255 bytes."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    label: str
    """What is special to it: 'lr=0.01 balance=sign'."""
    overrides: list[str]
    run: Run


def open_jobs(overrides: list[str]) -> list[Job]:
    """Every run of the sweep, checked with its run directory. Raises ConfigError with all problems; makes nothing."""
    sweep = combinations(overrides)
    suffixes = _suffixes(sweep)
    jobs = check_each(sweep, lambda one: _open_job(one, suffixes[one.label]))
    if shared := _shared_folders(jobs):
        raise ConfigError(shared)
    return jobs


def run_jobs(jobs: Sequence[Job], start: Callable[[Job], int]) -> int:
    """Runs them one after the other and prints what became of each. Returns the first exit code that is not 0.

    start: trains a job and returns its exit code. A job that was stopped by a signal ends the sweep. Raises ConfigError
    where another job trains in one of the run directories, before the first is started.
    """
    _refuse_owned(jobs)
    exit_codes: list[int] = []
    for number, job in enumerate(jobs, start=1):
        print(f"\n== run {number} of {len(jobs)}: {job.label}, in {job.run.run_dir}", flush=True)
        exit_codes.append(start(job))
        if exit_codes[-1] - 128 in SIGNALS:
            break
    print(f"\n{_table(jobs, exit_codes)}", flush=True)
    return next(filter(None, exit_codes), 0)


def _open_job(one: Combination, suffix: str) -> Job:
    overrides = one.overrides
    if suffix:
        overrides = [*overrides, f"run.name={quoted(compose(overrides)['run']['name'] + suffix)}"]
    run = checked_run(overrides)
    check_run_dir(run)
    return Job(one.label, overrides, run)


def _refuse_owned(jobs: Sequence[Job]) -> None:
    problems: list[str] = []
    for job in jobs:
        try:
            refuse_owned(job.run.run_dir)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _suffixes(sweep: Sequence[Combination]) -> dict[str, str]:
    """Label -> what is added to run.name. Values that differ in signs only, a/b and a_b, are numbered."""
    suffixes: dict[str, str] = {}
    for one in sweep:
        short = short_names(one.values)
        suffix = "".join(f"-{short[key]}-{_as_name(value)}" for key, value in one.values.items() if key not in NAMING)
        numbered = (f"{suffix}-{number}" for number in count(2))
        taken = set(suffixes.values())
        suffixes[one.label] = next(end for end in chain([suffix], numbered) if end not in taken) if suffix else ""
    return suffixes


def _as_name(value: str) -> str:
    """As a part of a folder's name, without what a shell or Hydra would read as a sign."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_")[:VALUE_CHARS] or "empty"


def _shared_folders(jobs: list[Job]) -> list[str]:
    """However their paths are written."""
    folders = {job.run.run_dir.resolve(): job.run.run.dir for job in jobs}
    times = Counter(job.run.run_dir.resolve() for job in jobs)
    return [
        f"run.dir={written}: {times[folder]} runs of the sweep would share it; leave run.dir out, or write "
        + in_shell("run.dir", f"{written}/${{run.name}}")
        for folder, written in folders.items()
        if times[folder] > 1
    ]


def _table(jobs: Sequence[Job], exit_codes: list[int]) -> str:
    """A line a run: its values, how far it came, its last loss, how it ended."""
    lines = [("run", "step", "loss", "exit code", "folder")]
    for number, job in enumerate(jobs):
        ended = str(exit_codes[number]) if number < len(exit_codes) else "not started"
        lines.append((job.label, *_progress(job.run), ended, str(job.run.run_dir)))
    return "\n".join(aligned(lines))


def _progress(run: Run) -> tuple[str, str]:
    try:
        last = require_rows(run.run_dir)[-1]
    except (ValueError, OSError):  # no finished step
        return "-", "-"
    return f"{last['step']:,}", f"{last['loss']:.4f}"
