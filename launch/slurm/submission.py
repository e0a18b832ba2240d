"""A checked run -> a job in the queue, with its code and script in the run directory: what launch.submit does."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.base.command import SEARCH_PATH, quoted
from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import write_whole
from launch.slurm import queue
from launch.slurm.options import Options, job_options, num_nodes
from launch.slurm.requeue import stalled_nodes
from launch.slurm.script import Places, array_script, batch_script
from launch.slurm.snapshot import OWN, Contents, contents, snapshot_name, write_snapshot
from train.checkpoint.commits import newest_step
from train.cluster.config import ClusterConfig
from train.config.owner import owned
from train.config.run import Run
from train.config.rundir import open_run_dir
from train.config.summary import summary
from train.process.starts import append_event, read_events

Look = Callable[[Run], object]
"""Raises ConfigError for a run that will fail."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A run with what its job needs."""

    run: Run
    cluster: ClusterConfig
    code: Contents
    places: Places
    options: Options
    script: str

    @property
    def folder(self) -> Path:
        return self.places.run_dir / "slurm"


def prepared(run: Run, overrides: list[str], args: argparse.Namespace, command: str) -> Submission:
    """Nothing is written. Raises ConfigError where the run has no cluster, or its code cannot be found."""
    if run.cluster is None:
        raise ConfigError(["cluster=none: submit needs a cluster; cluster=NAME names a file of configs/cluster"])
    run_dir = run.run_dir.absolute()
    if not str(run_dir).isprintable() or "\\" in str(run_dir):  # SLURM would write the log elsewhere
        raise ConfigError(
            [f"run.dir={run.run.dir!r}: a batch script cannot hold it; choose one without line breaks and backslashes"]
        )
    code = contents(args.config_dir)
    places = Places(
        run_dir=run_dir,
        code=run_dir / "code" / snapshot_name(code),
        workdir=Path.cwd(),
        venv=Path(sys.prefix),
    )
    events = read_events(run_dir)
    options = job_options(
        run,
        run.cluster,
        log=places.log,
        exclude=stalled_nodes(events, at_least=run.cluster.exclude_after_stalls),
        is_chained=args.chain > 1,
    )
    script = batch_script(
        run,
        run.cluster,
        options=options,
        overrides=overrides_of_job(overrides, places),
        command=command,
        places=places,
        is_chained=args.chain > 1,
    )
    return Submission(run=run, cluster=run.cluster, code=code, places=places, options=options, script=script)


def overrides_of_job(overrides: list[str], places: Places) -> list[str]:
    """Options of a person's own are read from the snapshot too."""
    own = f"{SEARCH_PATH}=[{quoted(f'file://{places.code / OWN}')}]"
    return [own if override.startswith(f"{SEARCH_PATH}=") else override for override in overrides]


def submit_run(submission: Submission, args: argparse.Namespace, look: Look) -> int:
    if args.dry_run:
        print(submission.script, end="")
        return 0
    print(summary(submission.run))
    refuse_complete(submission.run)
    check_before(submission, look)
    jobs: list[str] = []
    with owned(submission.places.run_dir), undone_on_error(submission):
        refuse_queued(submission)
        script = write_job(submission)
        with cancelled_on_error(jobs):
            for _ in range(args.chain):
                waits = [f"--dependency=afternotok:{jobs[-1]}", "--kill-on-invalid-dep=yes"] if jobs else ["--hold"]
                jobs.append(queue.submit(script, *waits))
            record(submission, jobs)
    queue.release(jobs[0])  # not before its record is written, and the folder is free
    print(how_to_follow(submission, jobs))
    return 0


def submit_array(submissions: Sequence[Submission], args: argparse.Namespace, look: Look) -> int:
    """All runs of a sweep as one array: they ask for the same, apart from name and log."""
    first = submissions[0]
    for other in submissions[1:]:
        differing = [key for key, value in first.options.items() if other.options.get(key) != value]
        if named := [key for key in differing if key not in ("job-name", "output")]:
            raise ConfigError(
                [
                    f"--multirun: the jobs of an array ask for the same, but {', '.join(named)} differs between "
                    f"{first.run.run.name} and {other.run.run.name}; submit them one by one"
                ]
            )
    script = array_script(first.options, [one.folder for one in submissions])
    if args.dry_run:
        print(script, *(one.script for one in submissions), sep="\n", end="")
        return 0
    for submission in submissions:
        check_before(submission, look)
        refuse_queued(submission)
    with ExitStack() as stack:
        for submission in submissions:
            stack.enter_context(owned(submission.places.run_dir))
            stack.enter_context(undone_on_error(submission))
            write_job(submission)
        write_whole(first.folder / "array.sbatch", script)
        job = queue.submit(first.folder / "array.sbatch", "--hold")
        with cancelled_on_error([job]):
            for number, submission in enumerate(submissions):
                record(submission, [f"{job}_{number}"])
    queue.release(job)
    for number, submission in enumerate(submissions):
        print(f"job {job}_{number}: {submission.run.run.name} in {submission.places.run_dir}")
    print(f"stop them:  scancel {job}")
    return 0


def check_before(submission: Submission, look: Look) -> None:
    """All that can be known before anything is written: of SLURM here, of the run by `look`."""
    queue.require_slurm()
    nodes = num_nodes(submission.run, submission.cluster)
    queue.check_partition(submission.cluster.partition, nodes=nodes, time=str(submission.cluster.time))
    look(submission.run)


def refuse_complete(run: Run) -> None:
    """Raises ConfigError where a job would find nothing to do. In a sweep that is no mistake: others go on."""
    if run.checkpoint.load_step == -1 and newest_step(run.checkpoint_dir) >= run.last_step:
        raise ConfigError(
            [
                f"run.dir={run.run.dir}: nothing to train: step {run.last_step:,} is done, and the run ends there; "
                "export it (python -m train.export), or choose another run.dir"
            ]
        )


def refuse_queued(submission: Submission) -> None:
    """Raises ConfigError where a job of this run directory waits or runs: two would wait for each other."""
    events = read_events(submission.places.run_dir)
    submitted = [job for event in events for job in event.get("jobs", ())]
    if waiting := queue.queued(submitted):
        named = ", ".join(f"{job.id} ({job.state})" for job in waiting)
        raise ConfigError(
            [
                f"run.dir={submission.run.run.dir}: job {named} of this run is in the queue already; wait, stop it "
                f"(scancel {' '.join(job.id for job in waiting)}), or name another run"
            ]
        )


def write_job(submission: Submission) -> Path:
    """Configuration, code and script, into the run directory. Returns the script."""
    open_run_dir(submission.run)
    write_snapshot(submission.code, submission.places.code)
    script = submission.folder / "job.sbatch"
    script.parent.mkdir(exist_ok=True)
    write_whole(script, submission.script)
    return script


def record(submission: Submission, jobs: list[str]) -> None:
    """Raises ConfigError where the run directory does not take it."""
    try:
        append_event(submission.places.run_dir, "submit", jobs=jobs, code=submission.places.code.name)
    except OSError as error:
        raise ConfigError([f"run.dir={submission.run.run.dir}: the submission cannot be written ({error})"]) from error


@contextmanager
def cancelled_on_error(jobs: list[str]) -> Iterator[None]:
    """Jobs that have been queued when the block fails are taken back."""
    try:
        yield
    except BaseException:
        if jobs:
            queue.cancel(jobs)
        raise


@contextmanager
def undone_on_error(submission: Submission) -> Iterator[None]:
    """What the block wrote is taken back where it fails: a refused submission leaves the folder as it was."""
    run_dir = submission.places.run_dir
    files = [run_dir / "config.yaml", submission.folder / "job.sbatch", submission.folder / "array.sbatch"]
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    had_code = submission.places.code.exists()
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        if not had_code:
            shutil.rmtree(submission.places.code, ignore_errors=True)
        for folder in (submission.places.code.parent, submission.folder):
            if folder.is_dir() and not os.listdir(folder):
                folder.rmdir()
        raise


def how_to_follow(submission: Submission, jobs: list[str]) -> str:
    log = submission.folder / f"{jobs[0]}.log"
    chain = f", and {len(jobs) - 1} that go on after it" if len(jobs) > 1 else ""
    return "\n".join(
        [
            f"\nsubmitted      job {jobs[0]}{chain}; code {submission.places.code.name}",
            f"its place      squeue --jobs={','.join(jobs)} --start",
            f"its log        tail -F {shlex.quote(str(log))}",
            f"stop, saved    scancel --batch --signal=USR1 {jobs[0]}    (and it is queued again)",
            f"stop for good  scancel {' '.join(jobs)}",
        ]
    )
