"""train/process/code.py: which code it is, in a work tree, in a snapshot and in neither."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from train.process.code import ROOT, code_hash, code_version


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a file of code."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.py").write_text("x = 1\n")
    return tmp_path


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def test_a_work_tree_has_a_commit_and_may_be_dirty(tree: Path) -> None:
    git(tree, "init")
    git(tree, "add", "-A")
    git(tree, "commit", "-m", "one")
    clean = code_version(tree)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tree / "train/a.py").write_text("x = 2\n")
    changed = code_version(tree)
    assert (changed["commit"], changed["dirty"]) == (clean["commit"], True)
    assert changed["sha256"] != clean["sha256"]


def test_a_snapshot_says_what_it_was_taken_of(tree: Path) -> None:
    (tree / "version.json").write_text(json.dumps({"commit": "abc", "changed": ["train/a.py"]}))
    version = code_version(tree)
    assert (version["commit"], version["dirty"], version["snapshot"]) == ("abc", True, tree.name)


def test_without_either_the_hash_tells_one_code_from_another(tree: Path) -> None:
    assert list(code_version(tree)) == ["sha256"]
    before = code_hash(tree)
    (tree / "train/a.py").rename(tree / "train/b.py")
    assert code_hash(tree) != before


def test_this_code_has_a_hash() -> None:
    assert len(code_hash(ROOT)) == 16
