"""Going back to an earlier checkpoint of a run: what came after it is set aside, not deleted.

    <run>/rewound-1/   checkpoints after the step, metrics.jsonl as it was, rewind.json

The same command may be started again, by a scheduler for instance: a rewind that was done is not done twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import write_whole
from train.checkpoint.commits import committed_steps
from train.metrics.jsonl import FILE_NAME, cut_rows

MARK = "rewind.json"


def rewind(run_dir: Path, checkpoints: Path, step: int) -> str | None:
    """Makes `step` the last checkpoint of the run; returns what was done in words, or None where it was done before.

    Raises ConfigError where there is no complete checkpoint of `step`.
    """
    if not needs_rewind(run_dir, checkpoints, step):
        return None
    steps = committed_steps(checkpoints)
    aside = run_dir / f"rewound-{max(_asides(run_dir), default=0) + 1}"
    aside.mkdir()
    if (run_dir / FILE_NAME).is_file():
        shutil.copy2(run_dir / FILE_NAME, aside)
    for later in (other for other in steps if other > step):
        os.rename(checkpoints / f"step-{later}", aside / f"step-{later}")
    for link in checkpoints.glob("phase-*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    mark = {"step": step, "last_step": steps[-1], "time": time.time()}
    write_whole(aside / MARK, json.dumps(mark))  # after all that: one that was cut short goes on
    cut_rows(run_dir / FILE_NAME, after=step)
    return f"rewound to step {step}; what came after it, if anything, is in {aside}"


def needs_rewind(run_dir: Path, checkpoints: Path, step: int) -> bool:
    """Whether it was not done before. One to the last step counts: the run goes on, and the same command would go back
    to it the next time. Raises ConfigError as `rewind` does."""
    asides = _asides(run_dir)
    done = {number: _rewound_to(folder) for number, folder in asides.items()}
    if done and done[max(done)] == step:
        return False  # before the question whether it is there: the run may have gone on, and its checkpoint with age
    steps = committed_steps(checkpoints)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise ConfigError(
            [
                f"checkpoint.load_step={step}: {checkpoints} has no complete checkpoint of it; there: {there}; "
                "name one of those, or leave it out"
            ]
        )
    return True


def read_rewinds(run_dir: Path) -> list[dict[str, Any]]:
    """What each rewind has left in words for programs: step (gone back to), last_step (of the last checkpoint then) and
    time; in their order, whatever a user calls their folders now."""
    marks = {mark: _read_mark(mark) for mark in run_dir.glob(f"*/{MARK}")}
    return sorted((rewind for rewind in marks.values() if rewind), key=lambda rewind: rewind.get("time", 0.0))


def _asides(run_dir: Path) -> dict[int, Path]:
    """k -> <run>/rewound-k. What a user has named otherwise is his."""
    matches = {folder: re.fullmatch(r"rewound-(\d+)", folder.name) for folder in run_dir.glob("rewound-*")}
    return {int(match[1]): folder for folder, match in matches.items() if match}


def _rewound_to(aside: Path) -> int | None:
    """The step of a rewind that was done to its end."""
    return (_read_mark(aside / MARK) or {}).get("step")


def _read_mark(path: Path) -> dict[str, Any] | None:
    """None where there is none, or none that says where the run went."""
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        return mark if isinstance(mark["step"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
