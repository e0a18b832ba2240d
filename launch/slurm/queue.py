"""SLURM's commands: what a partition has, what is queued, sbatch. Errors are SLURM's own words."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.base.errors import ConfigError

TIMEOUT_S = 60
"""A controller that is busy answers within seconds; one that is down, never."""


@dataclass(frozen=True)
class QueuedJob:
    id: str
    state: str
    """SLURM's word: PENDING, RUNNING, ..."""


def require_slurm() -> None:
    """Raises ConfigError where this machine cannot submit."""
    if missing := [name for name in ("sbatch", "squeue", "sinfo", "scontrol") if shutil.which(name) is None]:
        raise ConfigError(
            [
                f"{', '.join(missing)}: not on PATH, so this is no machine to submit from; log in to a node of the "
                "cluster that is (or load its module), or print the script: --dry-run"
            ]
        )


def check_partition(partition: str | None, *, nodes: int, time: str) -> None:
    """Raises ConfigError where the cluster does not have it, fewer nodes in it, or a shorter limit: SLURM would let the
    job wait for ever. None: the default one. partition: one, or several separated by commas."""
    sizes: dict[str, int] = {}
    limits: dict[str, str] = {}
    default = None
    for line in _partitions().splitlines():
        marked, count, limit = line.split("|")
        name = marked.rstrip("*")
        sizes[name] = sizes.get(name, 0) + int(count)
        limits[name] = limit
        default = name if marked != name else default
    wanted = partition or default
    if wanted is None:
        raise ConfigError([f"cluster.partition: the cluster has no default; there are: {', '.join(sizes)}"])
    for name in wanted.split(","):
        if name not in sizes:
            raise ConfigError([f"cluster.partition={name}: the cluster has no such; there are: {', '.join(sizes)}"])
    largest = max(sizes[name] for name in wanted.split(","))
    if nodes > largest:
        raise ConfigError(
            [
                f"cluster.nodes: the mesh fills {nodes:,} nodes, but partition {wanted} has {largest:,}; choose "
                "another cluster.partition, or a smaller mesh (parallelism.data_parallel_replicate_degree)"
            ]
        )
    if all(seconds(time) > seconds(limits[name]) for name in wanted.split(",")):
        raise ConfigError(
            [
                f"cluster.time={time}: partition {wanted} allows {limits[wanted.split(',')[-1]]}; ask for less: "
                "the job is requeued until the run is complete"
            ]
        )


def _partitions() -> str:
    try:
        return _ask("sinfo", "--noheader", "--format=%P|%D|%l")
    except ConfigError as error:
        remedy = "submit from a node of one, or print the script: --dry-run"
        raise ConfigError([f"no cluster answers on this machine ({error.problems[-1]}); {remedy}"]) from error


def seconds(time: str) -> float:
    """Of a time as SLURM writes it: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s; what is no time is no limit."""
    if not re.fullmatch(r"[\d:-]+", time):
        return math.inf
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        parts = [*parts, 0, 0][:3]
    elif len(parts) < 3:
        parts = [0, *parts, 0][:3]
    hours, minutes, rest_s = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_s


def queued(jobs: Sequence[str]) -> list[QueuedJob]:
    """Those of `jobs` that wait or run."""
    if not jobs:
        return []
    command = ["squeue", "--noheader", "--format=%i|%T", f"--jobs={','.join(jobs)}"]
    try:
        lines = _ask(*command).splitlines()
    except ConfigError as error:
        if "Invalid job id" in str(error):  # SLURM's answer where it has forgotten the only one
            return []
        raise
    return [QueuedJob(*line.split("|")) for line in dict.fromkeys(lines)]


def submit(script: Path, *options: str) -> str:
    """The number of the new job. Raises ConfigError with what sbatch says."""
    said = _ask("sbatch", "--parsable", *options, str(script))
    number = re.match(r"\d+", said)  # ;CLUSTER follows in a federation
    assert number, said
    return number[0]


def release(job: str) -> None:
    """Lets a job begin that was submitted with --hold."""
    _ask("scontrol", "release", job)


def cancel(jobs: Sequence[str]) -> None:
    _ask("scancel", *jobs)


def _ask(*command: str) -> str:
    """What it prints. Raises ConfigError, one problem a line of its error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError([f"{command[0]}: {error}"]) from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}, no words"]
        raise ConfigError([f"SLURM refuses: {line}" for line in words])
    return done.stdout
