"""What a check is given, and what it says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from data_pipelines.base.errors import ConfigError
from train.config.run import Run

Level: TypeAlias = Literal["ok", "warning", "fail"]

COMMAND_TIMEOUT_S = 10.0
"""For what other programs are asked; SLURM's controller answers within its own 10 s or not at all."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table."""

    level: Level
    what: str
    """What was found, with its numbers."""
    remedy: str = ""
    """What to do about it; empty for `ok` only."""
    group: str = ""
    """The kind of check; preflight.py sets it."""


def ok(what: str) -> Finding:
    return Finding(level="ok", what=what)


def warning(what: str, remedy: str) -> Finding:
    """The run can work, or cannot be known not to."""
    return Finding(level="warning", what=what, remedy=remedy)


def fail(what: str, remedy: str) -> Finding:
    """The run cannot work."""
    return Finding(level="fail", what=what, remedy=remedy)


def failures(error: Exception | Iterable[str], remedy: str = "") -> list[Finding]:
    """What an error of a start says, one finding a problem. Its remedy is behind the last semicolon, by house style.

    remedy: where a problem names none.
    """
    if isinstance(error, ConfigError):
        error = error.problems
    problems = str(error).splitlines() if isinstance(error, Exception) else error
    return [_failure(problem, remedy or "correct it, and run preflight again") for problem in problems]


def _failure(problem: str, remedy: str) -> Finding:
    what, semicolon, own = problem.rpartition("; ")
    return fail(what, own) if semicolon else fail(problem, remedy)


class Subject:
    """A run and the cluster that it is meant for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.cluster = run.cluster
        """None: this machine, or one on which ranks are started by hand."""

    @property
    def ranks_per_node(self) -> int:
        return self.run.world_size if self.cluster is None else self.cluster.ranks_per_node

    @property
    def num_nodes(self) -> int:
        return -(-self.run.world_size // self.ranks_per_node)

    @property
    def uses_gpus(self) -> bool:
        return bool(count_gpus() if self.cluster is None else self.cluster.gpus_per_node)

    @property
    def is_here(self) -> bool:
        """Whether this machine is the one that trains: what it lacks is missing then, and not only here."""
        return self.cluster is None and self.run.world_size <= most_ranks_here()

    @property
    def starts_here(self) -> bool:
        """Whether the run is started or submitted on this machine: its limits count then, and its folders are the
        run's own, since those of a cluster are shared."""
        return self.cluster is not None or self.is_here

    @cached_property
    def values(self) -> tuple[int, int]:
        """(parameters, values of optimizers and balancing) of the whole model, float32 each."""
        from train.blueprint.count import count_whole

        parts = count_whole(self.run.model, self.run.optimizer)
        return sum(part.total for part in parts), sum(part.states_on_rank for part in parts)

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: weights and states in float32. What else is in it is a few MB."""
        return FLOAT32_BYTES * sum(self.values)


FLOAT32_BYTES = 4
"""Of weights, gradients and states: train/config/rules/run.py refuses other weights."""

Check: TypeAlias = Callable[[Subject], Iterable[Finding]]

RANKS_PER_CORE = 8
"""Ranks that share a core still come to an end, in tests for instance; more are meant for another machine."""


def most_ranks_here() -> int:
    """Ranks that this machine can be meant for."""
    return count_gpus() or RANKS_PER_CORE * len(os.sched_getaffinity(0))


def count_gpus() -> int:
    """NVIDIA GPUs of this machine; its driver lists them, and is not woken up for it."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def ask(command: Sequence[str | Path], timeout_s: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Runs a program that only answers. Raises OSError or subprocess.TimeoutExpired."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
    )


def last_line(text: str) -> str:
    """The last that a program said: where it fails, usually why."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def guarded(check: Check, subject: Subject) -> Iterator[Finding]:
    """The findings of a check; where it breaks off, that is the last one."""
    try:
        yield from check(subject)
    except Exception as error:
        reason = last_line(f"{type(error).__name__}: {error}")
        name = check.__name__.replace("_", " ")
        yield warning(f"{name} could not be checked: {reason}", "look at it by hand; the other checks went on")


def size(num_bytes: float) -> str:
    """`3.19 TB`: decimal, as disks are sold."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while num_bytes >= 1000 and len(units) > 1:
        num_bytes /= 1000
        units.pop(0)
    return f"{num_bytes:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """`12 s`, `3.5 min`, `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"
