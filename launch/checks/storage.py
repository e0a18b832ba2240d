"""The run directory's disk: whether a checkpoint can be committed there, how many fit, and how fast one is written."""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.base.files import flush
from launch.checks.base import Finding, Subject, ask, duration, fail, guarded, ok, size, warning
from train.checkpoint.commits import committed_steps
from train.config.owner import NO_LOCKS
from train.config.run import Run
from train.metrics.jsonl import read_rows

LOCAL_TYPES = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "ramfs", "overlay", "squashfs")
"""File systems that only one machine sees."""

PROBE_BYTES = 256 * 10**6
PROBE_SECONDS = 2.0
PROBE_PIECE = 16 * 2**20
MAX_SKEW_S = 2.0
"""A clock that is set by NTP is within milliseconds; network file systems round to a second."""
MAX_SAVE_SHARE = 0.1
"""Of the time of an interval."""


def disk(subject: Subject) -> Iterator[Finding]:
    """Can it be written, is there room, how fast is it: the second and third only where the first holds."""
    findings = list(folder(subject))
    yield from findings
    if not any(finding.level == "fail" for finding in findings):
        yield from guarded(space, subject)
        yield from guarded(bandwidth, subject)


def folder(subject: Subject) -> Iterator[Finding]:
    """All that a save does, once in small: write, flush, rename, link, lock; and the disk's clock."""
    paths = {"run.dir": subject.run.run_dir}
    checkpoints = subject.run.checkpoint_dir
    if os.path.lexists(checkpoints) or not checkpoints.is_relative_to(subject.run.run_dir):  # perhaps on another disk
        paths["checkpoint.folder"] = checkpoints
    for setting, path in paths.items():
        try:
            with probe_folder(path) as probe:
                skew = _rehearse(probe)
                has_locks = _has_locks(probe)
        except OSError as error:
            yield fail(
                f"{setting}: nothing can be saved in {path} ({error})", "choose another run.dir, or mend that one"
            )
            continue
        yield ok(f"{path}: written, flushed, renamed and linked ({file_system(path)})")
        if not has_locks:
            yield warning(
                f"{path}: the file system has no locks, so a second job on the run is only told by owner.json",
                "start one job at a time, or choose a file system with flock (Lustre: mount option flock)",
            )
        if abs(skew) > MAX_SKEW_S:
            yield warning(
                f"{path}: its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
                "set both by NTP: ages of checkpoints and stalls are told by these clocks",
            )


@contextmanager
def probe_folder(path: Path) -> Iterator[Path]:
    """A folder on the file system of `path`, which need not exist; gone after the block. Raises OSError."""
    probe = Path(tempfile.mkdtemp(prefix=".preflight-", dir=nearest(path)))
    try:
        yield probe
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def nearest(path: Path) -> Path:
    """`path`, or the folder above it that is there. Raises NotADirectoryError where that is a file."""
    path = path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is {'a link to nowhere' if path.is_symlink() else 'a file'}, not a folder")
    return path


def _rehearse(probe: Path) -> float:
    """Raises OSError where a checkpoint could not be committed; returns how far the disk's clock is ahead, seconds."""
    partial, final = probe / "step-1.tmp", probe / "step-1"
    partial.mkdir()
    before = time.time()
    (partial / "file").write_bytes(b"0" * 4096)
    flush(partial / "file")
    written, after = (partial / "file").stat().st_mtime, time.time()
    flush(partial)
    os.rename(partial, final)
    flush(probe)
    (probe / "phase-one").symlink_to("step-1")
    if not stat.S_ISDIR((probe / "phase-one").stat().st_mode):
        raise OSError("a link to a folder does not lead there")
    return skew_of(written, before, after)


def skew_of(written: float, before: float, after: float) -> float:
    """How far a time lies outside of the span in which it was taken."""
    return written - after if written > after else min(0.0, written - before)


def _has_locks(probe: Path) -> bool:
    descriptor = os.open(probe / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def shared(subject: Subject) -> Iterator[Finding]:
    """Do all nodes see the folders of the run? By the kind of file system, which says no for certain only."""
    if subject.cluster is None or subject.num_nodes == 1:
        return
    run, data = subject.run, subject.run.data
    paths = {"run.dir": run.run_dir, "cluster.venv": subject.cluster.venv}
    if not run.checkpoint_dir.resolve().is_relative_to(run.run_dir.resolve()):
        paths["checkpoint.folder"] = run.checkpoint_dir
    paths |= {"data.dir": getattr(data, "dir", None), "data.tokenizer": data.tokenizer}
    paths |= {f"data.sources.{name}.train": getattr(one, "train", None) for name, one in _sources(data).items()}
    for setting, path in paths.items():
        if not path or "://" in str(path):
            continue
        kind = file_system(Path(path))
        if kind in LOCAL_TYPES:
            yield warning(
                f"{setting}={path} is on {kind}, which other nodes do not see ({subject.num_nodes} are asked for)",
                "put it on the cluster's shared file system; ignore this where the path is mounted elsewhere there",
            )


def _sources(data: object) -> dict[str, object]:
    return getattr(data, "sources", {})


def file_system(path: Path) -> str:
    """Type of the file system that `path` is or would be on: ext4, nfs4, lustre, ..."""
    return _mount(path)[0]


def _mount(path: Path) -> tuple[str, str]:
    """(type, source) of the mount that `path` is or would be on. By names: a device number may stand for several."""
    place, found, deepest = nearest(path).resolve(), ("unknown file system", ""), -1
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, (kind, source) = line.split(), line.partition(" - ")[2].split()[:2]
        point = Path(fields[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= deepest:  # the last of equals lies on top
            found, deepest = (kind, source), len(point.parts)
    return found


def space(subject: Subject) -> Iterator[Finding]:
    """What retention keeps, at its largest, against what is free."""
    run = subject.run
    if not run.checkpoint.enable:
        yield warning("checkpoint.enable=false: whatever ends the run loses it", "set checkpoint.enable=true")
        return
    number = checkpoints_at_most(run)
    there = len(committed_steps(run.checkpoint_dir))
    needed = max(0, number - there) * subject.checkpoint_bytes
    place = nearest(run.checkpoint_dir)
    free, limit = shutil.disk_usage(place).free, "free"
    if (left := quota_left(place)) is not None and left < free:
        free, limit = left, "left of the quota"
    what = f"{number:,} checkpoints of {size(subject.checkpoint_bytes)} at most" + f", {there} of them there" * bool(
        there
    )
    what = f"{what}: {size(needed)} more, {size(free)} {limit} in {place}"
    if needed <= free:
        yield ok(what)
    elif subject.starts_here:
        yield fail(what, "free space, choose another run.dir, or keep fewer: checkpoint.keep_latest_k, interval")
    else:
        yield warning(what, "the run's own machine may have more: check there")
    files = number * (run.world_size + 2)  # one a rank, the directory, the tokenizer's hash
    if (left := files_left(place)) is not None and left < files:
        yield fail(f"{place}: {left:,} files can be made, {files:,} are needed", "delete files there")


def checkpoints_at_most(run: Run) -> int:
    """Complete ones that retention keeps, ends of phases among them, and one more that is being written."""
    milestones = {step for step in run.timeline.phase_end_steps if step <= run.last_step}
    due = set(range(run.checkpoint.interval, run.last_step + 1, run.checkpoint.interval)) | {run.last_step}
    if run.checkpoint.enable_first_step_checkpoint:
        due.add(1)
    passing, keep = len(due - milestones), run.checkpoint.keep_latest_k
    return len(milestones) + (min(passing, keep + 1) if keep else passing)


def files_left(place: Path) -> int | None:
    """None where the file system makes them as needed."""
    status = os.statvfs(place)
    return status.f_favail if status.f_files else None


def quota_left(place: Path) -> int | None:
    """Bytes that this user may still write there; None where no quota is known."""
    user = getpass.getuser()
    command = ["lfs", "quota", "-q", "-u", user, str(place)] if file_system(place) == "lustre" else ["quota", "-wp"]
    if not shutil.which(command[0]):
        return None
    return bytes_left(ask(command).stdout, _mount(place)[1], str(place))


def bytes_left(answer: str, *names: str) -> int | None:
    """Of what `quota -wp` or `lfs quota -q` say of a file system with one of `names`: kB used, soft and hard limit."""
    for line in answer.splitlines():
        fields = line.replace("*", "").split()
        if len(fields) > 3 and fields[0] in names and all(field.isdigit() for field in fields[1:4]):
            used, soft, hard = map(int, fields[1:4])
            limit = hard or soft
            return max(0, limit - used) * 1024 if limit else None
    return None


def bandwidth(subject: Subject) -> Iterator[Finding]:
    """Measured by one writer; a save is estimated with one such stream a node, and nothing in its way."""
    run = subject.run
    if not run.checkpoint.enable:
        return
    with probe_folder(run.checkpoint_dir) as probe:
        speed = measure_speed(probe / "speed")
    save_s = subject.checkpoint_bytes / (speed * subject.num_nodes)
    streams = f"{subject.num_nodes:,} nodes that each write as fast" if subject.num_nodes > 1 else "one node"
    what = f"{size(speed)}/s written and flushed; a checkpoint takes {duration(save_s)} or more ({streams})"
    where = "" if subject.starts_here else ", if its disk is like this one"
    step_s = median_step_seconds(run)
    if step_s and (share := save_s / (run.checkpoint.interval * step_s)) > MAX_SAVE_SHARE:
        yield warning(
            f"{what}: {share:.0%} of an interval of {run.checkpoint.interval} steps of {duration(step_s)}",
            "a larger checkpoint.interval, or a faster file system",
        )
    else:
        yield ok(what + where)
    yield from _signal_time(subject, save_s, step_s)


def measure_speed(path: Path) -> float:
    """Bytes a second of one stream of PROBE_BYTES or PROBE_SECONDS, whichever comes first, flushed. Removes it."""
    piece = os.urandom(PROBE_PIECE)  # what compresses would be written faster
    written, started = 0, time.perf_counter()
    try:
        with path.open("wb", buffering=0) as file:
            while written < PROBE_BYTES and time.perf_counter() - started < PROBE_SECONDS:
                written += file.write(piece)
                os.fsync(file.fileno())  # each time: else a slow disk has all of it to write after the time is over
        return written / (time.perf_counter() - started)
    finally:
        path.unlink(missing_ok=True)


def _signal_time(subject: Subject, save_s: float, step_s: float) -> Iterator[Finding]:
    """A job that is told to stop finishes its step and saves before its time is over."""
    if subject.cluster is None:
        return
    before = subject.cluster.signal_before_s
    needed, parts = save_s + step_s, f"a checkpoint of {duration(save_s)} or more"
    if step_s:
        parts = f"a step of {duration(step_s)} and {parts}"
    if needed > before:
        yield warning(
            f"cluster.signal_before_s={before}: too short for {parts}; the job would be killed as it saves",
            f"set cluster.signal_before_s={int(2 * needed) + 60} or more",
        )
    else:
        yield ok(f"cluster.signal_before_s={before} leaves time for {parts}")


def median_step_seconds(run: Run) -> float:
    """Of the run's last rows; 0 where it has none yet."""
    try:
        rows = read_rows(run.run_dir)[-100:]
    except ValueError:  # damaged: resumption.py says so
        return 0.0
    return statistics.median([row["seconds"]["total"] for row in rows]) if rows else 0.0


CHECKS = (disk, shared)
