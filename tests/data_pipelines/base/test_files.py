"""data_pipelines/base/files.py: whole or not there, whoever else writes and whenever it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from data_pipelines.base import files
from data_pipelines.base.files import whole_file, whole_folder, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from data_pipelines.base.files import {what}
with {what}(Path(sys.argv[1])) as partial:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_has_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/old.txt").touch()
    with suppress(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as file:
        file.write_text("ne")
        raise KeyboardInterrupt
    with suppress(OSError), whole_folder(tmp_path / "b") as folder:
        (folder / "new.txt").touch()
        raise OSError("the disk is full")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["a.txt", "b", "b/old.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_replaces_the_one_before_with_all_that_was_in_it(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with whole_folder(tmp_path / "above" / "out") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "above").iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "above/out").iterdir()] == ["second"]


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.txt").touch()
    rename = os.rename

    def fail_once(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "out" and (Path(source) / "new.txt").exists():
            raise OSError("gone")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", fail_once)
    with pytest.raises(OSError, match="gone"), whole_folder(tmp_path / "out") as folder:
        (folder / "new.txt").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/old.txt"]


def test_two_writers_of_one_file_do_not_share_a_name(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_files_of_the_user_with_such_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("out.tmp", "out.old"):
        (tmp_path / name).mkdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.tmp", "out.old"}


@pytest.mark.parametrize("what", ["whole_file", "whole_folder"])
def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path, what: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED.format(what=what), str(tmp_path / "a")])
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"a\..+-\d+-[0-9a-f]{8}\.tmp", left.name)
    with getattr(files, what)(tmp_path / "a"):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, replace = files.flush, os.replace
    monkeypatch.setattr(files, "flush", lambda path: (events.append(f"flush {path.suffix}"), flush(path)))
    monkeypatch.setattr(files.os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    write_whole(tmp_path / "a.txt", "text")
    assert events[:2] == ["flush .tmp", "rename"]


def test_a_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
