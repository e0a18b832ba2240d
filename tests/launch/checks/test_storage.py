"""launch/checks/storage.py: saving in small, space, speed, clocks."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from launch.checks import storage
from launch.checks.storage import bytes_left, checkpoints_at_most, file_system, nearest, skew_of
from tests.launch.checks.world import Fault, World, assert_found
from train.checkpoint.commits import stale_steps


def free_bytes(number: int) -> Any:
    usage = shutil.disk_usage
    return lambda path: usage(path)._replace(free=number)


def quota(world: World) -> None:
    world.command("quota", "echo; echo '      /dev/data  990*  1000 1000  0  12 0 0 0'")
    world.patch.setattr(storage, "_mount", lambda path: ("nfs4", "/dev/data"))


def behind_a_file(world: World) -> None:
    (world.folder / "run").write_text("not a folder")


def no_links(world: World) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    world.patch.setattr(Path, "symlink_to", refuse)


def no_locks(world: World) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    world.patch.setattr(fcntl, "flock", refuse)


def clock_ahead(world: World) -> None:
    now = time.time
    world.patch.setattr(storage.time, "time", lambda: now() - 100)


def with_rows(world: World, *, seconds: float) -> None:
    world.run_dir.mkdir()
    rows = ({"step": step, "seconds": {"total": seconds}} for step in (1, 2, 3))
    (world.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def slow_disk(world: World) -> None:
    """18 kB a checkpoint: ten seconds, at intervals of 40 steps of 1 s."""
    with_rows(world, seconds=1.0)
    world.patch.setattr(storage, "measure_speed", lambda path: world_bytes(world) / 10)


def world_bytes(world: World) -> int:
    from launch.checks.base import Subject

    return Subject(world.read()).checkpoint_bytes


def late_signal(world: World) -> None:
    world.on_cluster("cluster.signal_before_s=10")
    world.patch.setattr(storage, "measure_speed", lambda path: world_bytes(world) / 60)


def local_folder(world: World) -> None:
    types = storage.LOCAL_TYPES
    world.on_cluster()
    world.patch.setattr(storage, "LOCAL_TYPES", (*types, file_system(world.folder)))


FAULTS = {
    "run.dir below a file": Fault(behind_a_file, "fail", "is a file, not a folder"),
    "run.dir that cannot be written": Fault(
        lambda world: world.set("checkpoint.folder=/proc/nowhere"), "fail", "nothing can be saved in /proc/nowhere"
    ),
    "file system without links": Fault(no_links, "fail", "Operation not permitted"),
    "file system without locks": Fault(no_locks, "warning", "has no locks"),
    "clock of the disk": Fault(clock_ahead, "warning", r"its clock is 100 s ahead of"),
    "folder of one node": Fault(local_folder, "warning", "which other nodes do not see"),
    "full disk": Fault(lambda world: world.patch.setattr(shutil, "disk_usage", free_bytes(1000)), "fail", "1 kB free"),
    "quota": Fault(quota, "fail", "10.2 kB left of the quota"),
    "no more files": Fault(
        lambda world: world.patch.setattr(storage, "files_left", lambda place: 2), "fail", "2 files can be made"
    ),
    "no checkpoints": Fault(lambda world: world.set("checkpoint.enable=false"), "warning", "whatever ends the run"),
    "disk too slow for the interval": Fault(slow_disk, "warning", "25% of an interval of 40 steps"),
    "signal too late for a save": Fault(late_signal, "warning", "too short for a checkpoint of 30 s"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])


@pytest.mark.parametrize("keep", [0, 2, 3])
@pytest.mark.parametrize("stop", ["null", 3, 12])
def test_space_is_that_of_the_most_checkpoints_that_retention_leaves(world: World, keep: int, stop: object) -> None:
    world.set("checkpoint.interval=2", f"checkpoint.keep_latest_k={keep}", f"run.stop_after_step={stop}")
    run = world.read()
    milestones = set(run.timeline.phase_end_steps)
    there: list[int] = []
    most = 0
    for step in range(1, run.last_step + 1):  # what the manager does
        if step % 2 == 0 or step in milestones or step == run.last_step:
            there.append(step)
            most = max(most, len(there))
            there = [old for old in there if old not in stale_steps(there, keep=keep, milestones=milestones)]
    assert most <= checkpoints_at_most(run) <= most + 1  # the last phase ends when a passing one has just been deleted


def test_a_quota_is_read_as_both_programs_write_it() -> None:
    # quota -wp: used, soft, hard, grace; a star where the soft limit is passed
    assert (
        bytes_left("Disk quotas:\n  Filesystem blocks quota limit\nnas:/home 1500* 1000 2000 7 1 0 0 0", "nas:/home")
        == 512_000
    )
    # lfs quota -q: the same columns behind the path
    assert bytes_left("  /lustre  10  0  20  -  5 0 0 -", "/lustre") == 10_240
    assert bytes_left("  /lustre  10  0  0  -  5 0 0 -", "/lustre") is None
    assert bytes_left("", "/lustre") is None


def test_a_clock_is_skewed_by_what_lies_outside_of_the_span() -> None:
    assert skew_of(5.0, before=4.0, after=6.0) == 0
    assert skew_of(9.0, before=4.0, after=6.0) == 3
    assert skew_of(1.0, before=4.0, after=6.0) == -3


def test_a_folder_that_is_not_there_lies_on_the_file_system_above_it(tmp_path: Path) -> None:
    assert nearest(tmp_path / "a/b/c") == tmp_path
    assert file_system(Path("/proc/nowhere")) == "proc"
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotADirectoryError, match="a link to nowhere"):
        nearest(tmp_path / "dangling/run")
