"""Which checkpoints of a run are complete, and what makes one so. Files only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import flush


def is_checkpoint(folder: Path) -> bool:
    """Whether DCP wrote the folder."""
    return (folder / ".metadata").is_file()


def check_is_checkpoint(folder: Path) -> None:
    """Raises ConfigError where `folder` holds no checkpoint, or one that has lost its directory."""
    if not is_checkpoint(folder):
        raise ConfigError([f"{folder} is no checkpoint: it has no .metadata"])


_COMMITTED = re.compile(r"step-(\d+)")


def committed_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in `folder`, in order."""
    if not folder.is_dir():
        return []
    matches = (_COMMITTED.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def newest_step(folder: Path) -> int:
    """Step of the last complete checkpoint in `folder`; 0 where there is none."""
    return max(committed_steps(folder), default=0)


def stale_steps(steps: list[int], *, keep: int, milestones: set[int]) -> list[int]:
    """Which of `steps` retention deletes: all but the newest `keep` and the milestones. 0 keeps all."""
    passing = [step for step in steps if step not in milestones]
    return passing[:-keep] if keep else []


def name_milestones(folder: Path, milestones: Mapping[int, str]) -> None:
    """`phase-general` -> `step-72` for each complete checkpoint at the end of a phase: a name to keep and to hand on.

    Links, so that a step has one place; a run that was killed before it made one makes it at its next checkpoint.
    """
    for step in committed_steps(folder):
        link = folder / f"phase-{milestones.get(step)}"
        if step in milestones and not os.path.lexists(link):
            link.symlink_to(f"step-{step}")


def commit(partial: Path, final: Path) -> None:
    """Makes a written checkpoint the real one, whose files are on the disk: their names, then the rename, then its."""
    flush(partial)
    os.rename(partial, final)
    flush(final.parent)
