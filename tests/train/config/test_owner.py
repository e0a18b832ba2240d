"""train/config/owner.py: one job a run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from data_pipelines.base.errors import RUN_EXIT, ConfigError
from train.config import owner
from train.config.owner import FILE_NAME, LEASE_S, owned, readable, refuse_owned

HOLD = "import sys; from pathlib import Path; from train.config.owner import owned\n" + (
    "with owned(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_a_second_job_is_refused_by_process_and_host(tmp_path: Path) -> None:
    with (
        owned(tmp_path),
        pytest.raises(ConfigError, match=rf"process {os.getpid()} on \S+ has been training there for 0 s;"),
    ):
        refuse_owned(tmp_path)
    refuse_owned(tmp_path)
    assert not (tmp_path / FILE_NAME).exists()


def test_a_killed_job_leaves_a_folder_that_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {job.pid} "), owned(tmp_path):
            pass
        job.kill()
    with owned(tmp_path):
        assert str(os.getpid()) in (tmp_path / FILE_NAME).read_text()


def test_a_start_that_is_refused_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), owned(tmp_path / "new"):
        raise ConfigError(["refused"])
    assert not (tmp_path / "new").exists()


def test_other_ranks_take_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with owned(tmp_path):
        assert not (tmp_path / FILE_NAME).exists()


def test_of_two_first_starts_the_refused_one_leaves_the_other_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "new"
    with owned(run_dir):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "exists", lambda path: False)  # as if it had looked a moment earlier
            with pytest.raises(ConfigError, match="training there"), owned(run_dir):
                pass
        assert str(os.getpid()) in (run_dir / FILE_NAME).read_text()
        with pytest.raises(ConfigError, match="training there"):
            refuse_owned(run_dir)


def test_a_lock_on_a_file_that_its_owner_has_removed_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def after_the_owner_has_ended(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append((tmp_path / FILE_NAME).unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_owner_has_ended)
    with owned(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        refuse_owned(tmp_path)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without."""

    def flock(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    ("process", "host", "age_s", "is_refused"),
    [
        (os.getppid(), socket.gethostname(), 1000, True),
        (2**22 + 1, socket.gethostname(), 0, False),  # beyond the largest id that Linux gives
        (os.getppid(), socket.gethostname(), 0, True),
        (2**22 + 1, "elsewhere", LEASE_S + 5, False),
    ],
)
def test_without_locks_the_file_is_believed_while_its_process_may_live(
    tmp_path: Path, no_locks: None, process: int, host: str, age_s: float, is_refused: bool
) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"host": host, "process": process, "since": 0}))
    os.utime(tmp_path / FILE_NAME, (0, time.time() - age_s))
    refusal = (
        pytest.raises(ConfigError, match=rf"process {process} on {host} has been training there for \d+ days;")
        if is_refused
        else nullcontext()
    )
    with refusal, owned(tmp_path):
        pass


def test_without_locks_a_start_waits_until_a_killed_owner_of_another_host_is_not_believed_any_more(
    tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "LEASE_S", 1.0)
    monkeypatch.setattr(owner, "SETTLE_S", 0.1)
    (tmp_path / FILE_NAME).write_text(json.dumps({"host": "elsewhere", "process": 1, "since": 0}))
    with pytest.raises(ConfigError, match="process 1 on elsewhere"):
        refuse_owned(tmp_path)
    with owned(tmp_path):
        assert time.time() - (tmp_path / FILE_NAME).stat().st_mtime < 1


def test_without_locks_of_two_that_start_together_one_goes_on(
    tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_writes(seconds: float) -> None:
        (tmp_path / FILE_NAME).write_text(json.dumps({"host": "elsewhere", "process": 1, "since": 0}))

    monkeypatch.setattr(time, "sleep", another_writes)
    with pytest.raises(ConfigError, match="process 1 on elsewhere"), owned(tmp_path):
        pass
    assert "elsewhere" in (tmp_path / FILE_NAME).read_text()  # the file is the other one's


def test_an_owner_renews_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "RENEW_S", 0.01)
    with owned(tmp_path):
        os.utime(tmp_path / FILE_NAME, (0, 0))
        while (tmp_path / FILE_NAME).stat().st_mtime == 0:
            time.sleep(0.01)
    assert not (tmp_path / FILE_NAME).exists()


def test_an_owner_that_slept_too_long_ends_where_another_has_come(tmp_path: Path, no_locks: None) -> None:
    hold = f"from train.config import owner; owner.RENEW_S = 0.2\n{HOLD}"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        os.kill(job.pid, signal.SIGSTOP)
        time.sleep(1)
        theirs = json.dumps({"host": "elsewhere", "process": 1, "since": 0})
        (tmp_path / FILE_NAME).write_text(theirs)
        os.kill(job.pid, signal.SIGCONT)
        assert job.wait(timeout=20) == RUN_EXIT
    assert (tmp_path / FILE_NAME).read_text() == theirs


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.6, "1 s"), (119, "119 s"), (120, "2 min"), (5_400, "90 min"), (9_000, "2 h"), (200_000, "2 days")],
)
def test_an_age_is_in_units_that_can_be_read(seconds: float, text: str) -> None:
    assert readable(seconds) == text
