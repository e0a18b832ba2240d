"""train/config/owner.py: one job a run directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from train.config.owner import FILE_NAME, owned, refuse_owned

HOLD = "import sys; from pathlib import Path; from train.config.owner import owned\n" + (
    "with owned(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_a_second_job_is_refused_by_process_and_host(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(ConfigError, match=rf"process {os.getpid()} on \S+ trains there since"):
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
