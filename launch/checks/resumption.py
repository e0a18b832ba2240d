"""Where the run begins: in an empty folder, at its last checkpoint, at an earlier one, or at given weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from launch.checks.base import Finding, Subject, fail, failures, ok, warning
from train.checkpoint.commits import committed_steps
from train.checkpoint.initial import check_initial
from train.checkpoint.reader import open_checkpoint
from train.checkpoint.rewind import needs_rewind
from train.config.owner import refuse_owned
from train.config.rundir import check_run_dir


def owner(subject: Subject) -> Iterator[Finding]:
    """No other job trains there now."""
    if not subject.run.run_dir.is_dir():
        return
    try:
        refuse_owned(subject.run.run_dir)
    except ConfigError as error:
        yield from failures(error)


def stored_settings(subject: Subject) -> Iterator[Finding]:
    """What the folder holds is this run, and none of its steps would be lost."""
    try:
        check_run_dir(subject.run)
    except ConfigError as error:
        yield from failures(error, "choose another run.dir (or run.name)")


def beginning(subject: Subject) -> Iterator[Finding]:
    """The checkpoint or the weights of the first step can be read and fit the model."""
    run = subject.run
    steps = committed_steps(run.checkpoint_dir)
    if run.checkpoint.load_step != -1:
        try:
            is_to_do = needs_rewind(run.run_dir, run.checkpoint_dir, run.checkpoint.load_step)
        except ConfigError:
            return  # stored_settings says so
        later = [step for step in steps if step > run.checkpoint.load_step] if is_to_do else []
        steps = [step for step in steps if step not in later]
        if later:
            yield warning(
                f"checkpoint.load_step={run.checkpoint.load_step}: sets {len(later)} later checkpoints aside",
                "leave it out to go on from the last one",
            )
    if steps:
        yield from _last_checkpoint(subject, steps[-1])
    elif run.checkpoint.initial_load_path:
        yield from _initial_weights(subject)
    else:
        yield ok(f"begins anew in {run.run_dir}")


def _last_checkpoint(subject: Subject, step: int) -> Iterator[Finding]:
    run = subject.run
    try:
        problems = open_checkpoint(run.checkpoint_dir, run.model, step).file_problems()
    except ConfigError as error:
        problems = error.problems
    if problems:
        yield from failures(problems, f"move {run.checkpoint_dir}/step-{step} away to go on from the one before")
    elif step >= run.last_step:
        yield warning(
            f"the run is complete: its last checkpoint is that of step {step:,}, it ends after {run.last_step:,}",
            "export it (python -m train.export), or extend it: run.stop_after_step, or another run.dir",
        )
    else:
        yield ok(f"goes on after step {step:,} of {run.timeline.num_steps:,} in {run.run_dir}")


def _initial_weights(subject: Subject) -> Iterator[Finding]:
    checkpoint = subject.run.checkpoint
    if checkpoint.initial_load_in_hf:
        yield fail("checkpoint.initial_load_in_hf=true is not for users", "set false: the folder shows what it holds")
    try:
        check_initial(Path(checkpoint.initial_load_path or ""), subject.run.model)
    except (ConfigError, OSError) as error:
        yield from failures(error, "choose weights of this model, or the model of these weights")
    else:
        yield ok(f"begins at the weights in {checkpoint.initial_load_path}, which fit the model")


CHECKS = (owner, stored_settings, beginning)
