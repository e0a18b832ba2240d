"""Facts -> the state of a run, its goodput and when it will be done. Pure.

Goodput is the share of the wall time since the run's first start that went into steps that count: the time of the
steps that are in metrics.jsonl, validation included and the saving of checkpoints not. What does not count: waiting in
a queue, starting, steps that were lost and taken again, checkpoints, stalls. The wall time ends now, or with the last
step of a run that does not go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from launch.board.facts import Facts, is_here
from launch.board.slurm import Job, jobs_of
from train.watchdog.config import WatchdogConfig

LIMITS_S = {key: value for key, value in asdict(WatchdogConfig()).items() if key.endswith("_after_s")}
"""Without a sign of life, where the configuration has no watchdog."""
STALL_STEPS = 20
"""And not before so many steps could have been taken,"""
SLOWEST_STEPS = 3
"""or so many like the slowest of the last ones, which may have been validated."""
QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING")


@dataclass(frozen=True)
class Status:
    """Of one run, as the table and --json show it. None: not known, or not so."""

    run: str
    state: str
    """queued, running, stalled, finished, stopped, new (nothing has happened yet), damaged."""
    why: str = ""
    """What is to be said of the state."""
    job: str | None = None
    step: int = 0
    num_steps: int | None = None
    phase: str | None = None
    tokens: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    """Over the last rows, checkpoints included."""
    mfu: float | None = None
    checkpoint_step: int = 0
    checkpoint_age_s: float | None = None
    restarts: int | None = None
    goodput: float | None = None
    """0..1, see above."""
    eta_phase_s: float | None = None
    eta_s: float | None = None
    spike: str | None = None
    """The last alarm in the last rows, of experts or spikes."""


def status_of(facts: Facts, jobs: Mapping[str, Job], *, now: float) -> Status:
    """jobs: what SLURM knows of those of the run; now: seconds since 1970."""
    row = facts.last_row or {}
    state, why, job = state_of(facts, jobs, now=now)
    speed = tokens_per_second(facts)
    eta_phase_s, eta_s = remaining_s(facts, speed) if state == "running" else (None, None)
    starts = sum(event["event"] == "start" for event in facts.events)
    return Status(
        run=facts.run_dir.name,
        state=state,
        why=why,
        job=job,
        step=row.get("step", 0),
        num_steps=facts.timeline.num_steps if facts.timeline else None,
        phase=row.get("phase"),
        tokens=row.get("tokens", 0),
        loss=row.get("loss"),
        tokens_per_second=speed,
        mfu=row.get("mfu"),
        checkpoint_step=facts.checkpoint_step,
        checkpoint_age_s=None if facts.checkpoint_time is None else max(0.0, now - facts.checkpoint_time),
        restarts=starts - 1 if starts else None,
        goodput=goodput(facts, is_going=state in ("running", "stalled", "queued"), now=now),
        eta_phase_s=eta_phase_s,
        eta_s=eta_s,
        spike=next((text for r in reversed(facts.rows) if (text := r.get("alarm") or r.get("spike"))), None),
    )


def state_of(facts: Facts, jobs: Mapping[str, Job], *, now: float) -> tuple[str, str, str | None]:
    """(state, what is to be said of it, the job that it is about)."""
    if facts.timeline is None and not facts.rows:
        return "damaged", "; ".join(facts.problems), None
    own = {job: jobs[job] for job in jobs_of(facts.events) if job in jobs}
    running = next((job for job, found in own.items() if found.state in RUNNING), None)
    queued = next((job for job, found in own.items() if found.state in QUEUED), None)
    if is_finished(facts) and not facts.is_locked:
        return "finished", "", None
    if running or facts.is_locked or (queued is None and seems_alive(facts, now=now)):
        silent_s, limit_s = silence(facts, now=now)
        if silent_s > limit_s:
            return "stalled", f"no sign of life for {silent_s:,.0f} s", running
        where = (facts.owner or {}).get("host")
        return "running", "" if is_here(facts.owner) or where is None else f"on {where}", running
    if queued:
        return "queued", own[queued].reason, queued
    return _stopped(facts, own)


def is_finished(facts: Facts) -> bool:
    """All steps are taken, and the end is saved, or was said to be the end."""
    if facts.timeline is None or not facts.rows or facts.rows[-1]["step"] < facts.timeline.num_steps:
        return False
    ends = [event for event in facts.events if event["event"] in ("start", "end")]
    said_so = bool(ends) and ends[-1]["event"] == "end" and ends[-1].get("exit_code") == 0
    return said_so or facts.checkpoint_step >= facts.timeline.num_steps


def seems_alive(facts: Facts, *, now: float) -> bool:
    """Whether a run that another machine owns has given a sign of life: its lock cannot be seen from here."""
    if facts.owner is None or is_here(facts.owner):
        return False
    silent_s, limit_s = silence(facts, now=now)
    return silent_s <= 10 * limit_s  # up to then it is rather stalled than gone


def silence(facts: Facts, *, now: float) -> tuple[float, float]:
    """(seconds since the last sign of life, how many of them are usual)."""
    starts = [event["time"] for event in facts.events if event["event"] == "start"]
    started = max(starts, default=(facts.owner or {}).get("since", 0.0))
    moved, limits = facts.moved or 0.0, LIMITS_S | facts.limits_s
    if started > moved:
        return now - started, limits["start_after_s"]
    if facts.is_saving:
        return now - moved, limits["save_after_s"]
    times = [row["seconds"]["total"] for row in facts.rows if "seconds" in row] or [0.0]
    return now - moved, max(limits["stall_after_s"], STALL_STEPS * median(times), SLOWEST_STEPS * max(times))


def _stopped(facts: Facts, jobs: Mapping[str, Job]) -> tuple[str, str, str | None]:
    """By what it knows last: a decision, an end, or a start that has none."""
    past = [event for event in facts.events if event["event"] in ("start", "end", "stall", "decision")]
    if facts.problems:
        return "damaged", "; ".join(facts.problems), None
    if not past:
        return ("stopped", "", None) if facts.rows else ("new", "no start yet", None)
    last = past[-1]
    ended = next((f"job {job}: {found.state}" for job, found in jobs.items()), "")
    if last["event"] == "start":
        return "stopped", ended or "killed: its last start has no end", None
    if last["event"] == "end" and last.get("exit_code") == 0:
        return "stopped", "before its last step, as it was told (run.stop_after_step)", None
    exit_code = f" (exit code {last['exit_code']})" if "exit_code" in last else ""
    return "stopped", f"{last.get('reason')}{exit_code}", None


def tokens_per_second(facts: Facts) -> float | None:
    rows = [row for row in facts.rows if "seconds" in row and "tokens_per_second" in row]
    seconds = sum(row["seconds"]["total"] for row in rows)
    tokens = sum(row["tokens_per_second"] * row["seconds"]["total"] for row in rows)
    return tokens / seconds if seconds > 0 else None


def remaining_s(facts: Facts, speed: float | None) -> tuple[float | None, float | None]:
    """(to the end of this phase, to the end of the run) at this speed; both no later than run.stop_after_step."""
    if facts.timeline is None or not speed or not facts.last_row:
        return None, None
    timeline, seen = facts.timeline, facts.last_row["tokens"]
    end = timeline.tokens_after(min(facts.stop_after_step or timeline.num_steps, timeline.num_steps))
    edges = [min(edge * timeline.seq_len, end) for edge in timeline.phase_edges]
    phase = next((edge for edge in edges if edge > seen), end)
    return max(0, phase - seen) / speed, max(0, end - seen) / speed


def goodput(facts: Facts, *, is_going: bool, now: float) -> float | None:
    times: list[Any] = [event["time"] for event in facts.events if event["event"] == "start"]
    if not times or not facts.rows:
        return None
    end = now if is_going else facts.moved or now
    wall = end - times[0]
    return min(1.0, facts.step_seconds / wall) if wall > 0 else None
