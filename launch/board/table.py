"""Statuses -> a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipelines.base.command import aligned
from launch.board.state import Status
from train.schedule.amounts import format_tokens

NONE = "-"
HEADING = (
    *("run", "state", "step", "phase", "tokens", "loss", "tok/s", "MFU"),
    *("saved", "restarts", "goodput", "phase ends", "run ends"),
)
WORDS = (0, 1, 3)
"""Columns that hold some."""


def table(statuses: Sequence[Status]) -> str:
    """A line a run, and below it what is to be said of some."""
    lines = [HEADING, *(_line(status) for status in statuses)]
    notes = [f"{status.run}: {note}" for status in statuses for note in (status.why, status.spike) if note]
    return "\n".join([*aligned(lines, words=WORDS), *([""] if notes else []), *notes])


def _line(status: Status) -> tuple[str, ...]:
    of = f"/{status.num_steps:,}" if status.num_steps else ""
    job = f" ({status.job})" if status.job else ""
    saved = f"{status.checkpoint_step:,}, {duration(status.checkpoint_age_s)} ago" if status.checkpoint_step else NONE
    return (
        status.run,
        status.state + job,
        f"{status.step:,}{of}",
        status.phase or NONE,
        format_tokens(status.tokens),
        NONE if status.loss is None else f"{status.loss:.3f}",
        NONE if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}",
        NONE if status.mfu is None else f"{status.mfu:.1%}",
        saved,
        NONE if status.restarts is None else str(status.restarts),
        NONE if status.goodput is None else f"{status.goodput:.0%}",
        duration(status.eta_phase_s),
        duration(status.eta_s),
    )


def duration(seconds: float | None) -> str:
    """Two units at most: 45 s, 3 min, 2 h 05 min, 12 d 3 h."""
    if seconds is None:
        return NONE
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24} h"
