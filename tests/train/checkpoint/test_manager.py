"""train/checkpoint/manager.py: which folders count, which go, and how one becomes real."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from train.checkpoint.commits import commit, committed_steps, name_milestones, stale_steps
from train.checkpoint.manager import _reason


def test_only_committed_checkpoints_count(tmp_path: Path) -> None:
    for name in ("step-10", "step-5", "step-100", "step-5.tmp", "step-120.tmp", "step-", "step-7-old", "notes"):
        (tmp_path / name).mkdir()
    assert committed_steps(tmp_path) == [5, 10, 100]  # as numbers, not as text


def test_a_folder_that_is_not_there_has_no_checkpoints(tmp_path: Path) -> None:
    assert committed_steps(tmp_path / "checkpoint") == []


@pytest.mark.parametrize(
    ("keep", "milestones", "expected"),
    [
        (2, set(), [10, 20, 30]),
        (2, {20}, [10, 30]),  # a milestone stays, and takes no place of the newest two
        (2, {50}, [10, 20]),  # 30 and 40 are the newest that may go
        (5, set(), []),
        (0, set(), []),  # 0 keeps all
    ],
)
def test_retention_keeps_the_newest_and_the_milestones(keep: int, milestones: set[int], expected: list[int]) -> None:
    assert stale_steps([10, 20, 30, 40, 50], keep=keep, milestones=milestones) == expected


def test_a_commit_makes_the_partial_folder_the_real_one(tmp_path: Path) -> None:
    partial, final = tmp_path / "step-5.tmp", tmp_path / "step-5"
    partial.mkdir()
    (partial / ".metadata").write_bytes(b"weights")
    commit(partial, final)
    assert committed_steps(tmp_path) == [5]
    assert (final / ".metadata").read_bytes() == b"weights"
    assert not partial.exists()


def test_a_commit_that_fails_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        commit(tmp_path / "step-5.tmp", tmp_path / "step-5")
    assert committed_steps(tmp_path) == []


def test_the_checkpoint_that_ends_a_phase_has_its_name(tmp_path: Path) -> None:
    for step in (10, 20, 25):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}/weights").write_text(str(step))
    milestones = {10: "general", 25: "high_quality", 40: "stem"}
    name_milestones(tmp_path, milestones)
    name_milestones(tmp_path, milestones)  # at every later checkpoint
    names = {path.name: (path / "weights").read_text() for path in tmp_path.glob("phase-*")}
    assert names == {"phase-general": "10", "phase-high_quality": "25"}
    assert committed_steps(tmp_path) == [10, 20, 25]


def test_the_innermost_reason_is_reported() -> None:
    full = OSError(28, "No space left on device")
    wrapped = RuntimeError("write failed")
    wrapped.__cause__ = full
    assert _reason(wrapped) == "OSError: [Errno 28] No space left on device"


def test_what_this_program_says_is_not_looked_behind() -> None:
    """Its words name the file and the remedy; those of what it caught do not."""
    said = ConfigError(["step-8/optimizer.json is damaged; restore it"])
    said.__cause__ = ValueError("Expecting value")
    wrapped = RuntimeError("a collective failed")
    wrapped.__cause__ = said
    assert _reason(wrapped) == f"ConfigError: {said}"
