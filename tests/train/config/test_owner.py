"""train/config/owner.py: one job a run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from train.config.owner import FILE_NAME, owned, readable, refuse_owned

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


@pytest.mark.parametrize(
    ("process", "host", "is_refused"),
    [
        (os.getppid(), socket.gethostname(), True),
        (2**22 + 1, socket.gethostname(), False),  # beyond the largest id that Linux gives
        (2**22 + 1, "elsewhere", True),
    ],
)
def test_without_locks_the_file_is_believed_while_its_process_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: int, host: str, is_refused: bool
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / FILE_NAME).write_text(json.dumps({"host": host, "process": process, "since": 0}))
    refusal = (
        pytest.raises(ConfigError, match=rf"process {process} on {host} has been training there for \d+ days;")
        if is_refused
        else nullcontext()
    )
    with refusal, owned(tmp_path):
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.6, "1 s"), (119, "119 s"), (120, "2 min"), (5_400, "90 min"), (9_000, "2 h"), (200_000, "2 days")],
)
def test_an_age_is_in_units_that_can_be_read(seconds: float, text: str) -> None:
    assert readable(seconds) == text
