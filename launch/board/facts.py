"""What the files of a run directory say of a run, read in milliseconds: no torch, no W&B, the end of a long file only.

config.yaml -> schedule     metrics.jsonl -> last rows, time in steps     starts.jsonl -> starts, ends, decisions
checkpoint/ -> last one     owner.json, /proc/locks -> who trains there now
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from data_pipelines.base.errors import ConfigError, words
from train.checkpoint.commits import newest_step
from train.process.starts import read_events
from train.schedule.config import ScheduleConfig
from train.schedule.timeline import Timeline

TAIL_BYTES = 2**20
"""Of metrics.jsonl: a row of Large has about 10 kB."""
RECENT_ROWS = 20
"""Over which speed is measured."""
WHOLE_BYTES = 2**24
"""Up to this size the time in steps is a sum over all rows; of a larger file it is estimated from SAMPLES places."""
SAMPLES = 64
STEP_SECONDS = re.compile(rb'"total": ([\d.e+-]+), "checkpoint": ([\d.e+-]+)')
"""In the `seconds` of a row (train/metrics/row.py)."""


@dataclass(frozen=True)
class Facts:
    run_dir: Path
    timeline: Timeline | None = None
    """None where config.yaml is missing or damaged."""
    stop_after_step: int | None = None
    """run.stop_after_step."""
    limits_s: dict[str, float] = field(default_factory=dict)
    """stall_after_s, start_after_s and save_after_s of the watchdog, where the run has one."""
    is_saving: bool = False
    """Whether a checkpoint is not complete yet: it is being saved, or was when the run was killed."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The last whole ones."""
    step_seconds: float = 0.0
    """In all steps of metrics.jsonl, without the saving of checkpoints."""
    moved: float | None = None
    """When a row was written last; seconds since 1970."""
    events: list[dict[str, Any]] = field(default_factory=list)
    checkpoint_step: int = 0
    checkpoint_time: float | None = None
    owner: dict[str, Any] | None = None
    """What owner.json says."""
    is_locked: bool = False
    """Whether a process of this machine trains there now."""
    problems: list[str] = field(default_factory=list)
    """What could not be read."""

    @property
    def last_row(self) -> dict[str, Any] | None:
        return self.rows[-1] if self.rows else None


def is_run_dir(path: Path) -> bool:
    with suppress(PermissionError):  # somebody else's
        return (path / "config.yaml").is_file() or (path / "metrics.jsonl").is_file()
    return False


def read_facts(run_dir: Path) -> Facts:
    """Whatever can be read; what cannot is a problem of the run, and none of the caller."""
    problems: list[str] = []
    settings = _settings(run_dir, problems)
    rows = run_dir / "metrics.jsonl"
    folder = run_dir / str(_at(settings, "checkpoint", "folder") or "checkpoint")
    step = newest_step(folder)
    return Facts(
        run_dir=run_dir,
        timeline=_timeline(settings, problems),
        stop_after_step=_at(settings, "run", "stop_after_step"),
        limits_s={key: value for key, value in (_at(settings, "watchdog") or {}).items() if key.endswith("_after_s")},
        is_saving=any(folder.glob("step-*.tmp")),
        rows=last_rows(rows, problems),
        step_seconds=step_seconds(rows),
        moved=_modified([rows]),
        events=read_events(run_dir),
        checkpoint_step=step,
        checkpoint_time=_modified([folder / f"step-{step}"]),
        owner=_owner(run_dir),
        is_locked=is_locked(run_dir / "owner.json"),
        problems=problems,
    )


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings of a run, by section. Raises ConfigError where its config.yaml is missing or damaged."""
    problems: list[str] = []
    if not (settings := _settings(run_dir, problems)):
        raise ConfigError([f"{run_dir}: {problem}; it is no run directory" for problem in problems])
    return settings


def last_rows(path: Path, problems: list[str] | None = None) -> list[dict[str, Any]]:
    """The last rows of metrics.jsonl, RECENT_ROWS at most. A damaged line is left out, and is a problem."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        (problems if problems is not None else []).append(words(error))
        return []
    whole = [line for line in (lines[1:] if size > TAIL_BYTES else lines) if line.endswith(b"\n")]
    rows = [_row(line) for line in whole[-RECENT_ROWS:]]
    if problems is not None and None in rows:
        problems.append(f"{path.name}: a damaged line among the last {RECENT_ROWS}")
    return [row for row in rows if row is not None]


def step_seconds(path: Path) -> float:
    """Sum over the rows of metrics.jsonl of their time without the saving of checkpoints; see WHOLE_BYTES."""
    if not path.is_file():
        return 0.0
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return _seconds_in(path.read_bytes())
    length = WHOLE_BYTES // SAMPLES
    with path.open("rb") as file:
        found = 0.0
        for sample in range(SAMPLES):
            file.seek((size - length) * sample // (SAMPLES - 1))
            found += _seconds_in(file.read(length))
    return found * size / (length * SAMPLES)


def is_locked(path: Path) -> bool:
    """Whether a process of this machine holds a lock on the file. Asks the kernel and takes no lock, which could turn
    away a job that starts at that moment."""
    try:
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any(f":{inode} " in line and " FLOCK " in line and "->" not in line for line in locks)


def is_here(owner: dict[str, Any] | None) -> bool:
    """Whether the owner is of this machine, so that its lock can be seen."""
    return owner is not None and owner.get("host") == socket.gethostname()


def _settings(run_dir: Path, problems: list[str]) -> dict[str, Any]:
    path = run_dir / "config.yaml"
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        problems.append("no config.yaml")
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"config.yaml: cannot be read ({str(error).splitlines()[0]})")
        return {}
    if not isinstance(settings, dict):
        problems.append("config.yaml: holds no settings")
        return {}
    problems += [f"config.yaml: {key} is no section" for key, value in settings.items() if not isinstance(value, dict)]
    return settings


def _timeline(settings: dict[str, Any], problems: list[str]) -> Timeline | None:
    if not settings:
        return None
    try:
        schedule = TypeAdapter(ScheduleConfig).validate_python(settings["schedule"])
        return Timeline(schedule, settings["training"]["seq_len"], settings.get("data", {}).get("skip", ()))
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        problems.append(f"config.yaml: its schedule cannot be read ({type(error).__name__})")
        return None


def _at(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and all(isinstance(row.get(key), int) for key in ("step", "tokens"))
    return row if is_row else None


def _seconds_in(data: bytes) -> float:
    found = STEP_SECONDS.findall(data)
    return sum(max(0.0, float(total) - float(saving)) for total, saving in found)


def _owner(run_dir: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads((run_dir / "owner.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_owner = isinstance(owner, dict) and isinstance(owner.get("since"), (int, float))
    return owner if is_owner else None


def _modified(paths: Iterable[Path]) -> float | None:
    """Of the newest; None where there is none."""
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return max(times, default=None)
