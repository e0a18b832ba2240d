"""What SLURM says of jobs. Without SLURM, or where it does not answer in time: nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

TIMEOUT_S = 5.0


class Job(NamedTuple):
    state: str
    """SLURM's word: PENDING, RUNNING, COMPLETING, FAILED, ..."""
    reason: str = ""
    """Why it waits, or how it ended."""


def jobs_of(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The jobs that may be going on with a run: those of its last submission, and that of its last start since."""
    jobs: list[str] = []
    for event in events:
        if event["event"] == "submit":
            jobs = [str(job) for job in event.get("jobs", ())]
        elif event["event"] == "start" and event.get("job"):
            jobs = [*(job for job in jobs if job != event["job"]), str(event["job"])]
    return jobs


def look_up(jobs: Iterable[str]) -> dict[str, Job]:
    """State of each job that SLURM knows: squeue's, and of those that are gone sacct's, where the cluster keeps one."""
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    queue = _ask("squeue", "--noheader", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(wanted)}")
    found = {job: Job(state, reason) for job, state, reason in queue}
    if gone := [job for job in wanted if job not in found]:
        format = "--format=JobID,State%30,ExitCode"
        for job, state, exit_code in _ask("sacct", "-nXP", format, f"--jobs={','.join(gone)}"):
            found.setdefault(job, Job(state.split()[0] if state else "", f"exit code {exit_code}"))
    return found


def _ask(*command: str) -> list[list[str]]:
    """The lines of its answer, split at |; none where it fails: one job that is forgotten fails squeue."""
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split("|", 2) for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == 3]
