"""The code of a run as it is at submission, kept in the run directory: a job that waits for days, or is requeued after
them, runs what was submitted and not what the checkout has become.

Files are those that git tracks or could (`git ls-files`: what is changed and not committed, and what is new, belongs to
it; what is ignored does not), or without git all. They are copied: no commit and no stash is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.base.errors import ConfigError

ROOT = Path(__file__).parents[2]
PARTS = ("configs", "data_pipelines", "launch", "train", "pyproject.toml")
"""What a run reads of the project."""
OWN = "own"
"""Folder of a snapshot with options of a person's own, from --config-dir."""
VERSION = "version.json"
HASH_DIGITS = 12  # as git shortens its own: two snapshots of one run do not meet by chance

Contents = dict[str, Path]
"""Path in the snapshot -> file that is copied there."""


def contents(own_configs: Path | None = None, *, root: Path = ROOT) -> Contents:
    """What a snapshot holds. Raises ConfigError where the project cannot be found at `root`: it is installed elsewhere,
    without its configs/."""
    if missing := [part for part in PARTS if not (root / part).exists()]:
        raise ConfigError([f"{root}: has no {', '.join(missing)}; submit from a checkout of the project"])
    files = {path: root / path for path in sorted(_project_files(root)) if (root / path).is_file()}
    for path in sorted(own_configs.rglob("*.yaml")) if own_configs else ():
        files[f"{OWN}/{path.relative_to(own_configs).as_posix()}"] = path
    return files


def snapshot_name(files: Contents) -> str:
    """Hash of paths, modes and contents: the same code is kept once."""
    digest = hashlib.sha256()
    for name, path in files.items():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{os.access(path, os.X_OK):d}\0{content}\n".encode())
    return digest.hexdigest()[:HASH_DIGITS]


def write_snapshot(files: Contents, folder: Path, *, root: Path = ROOT) -> None:
    """Makes `folder`, whole or not at all. One that is there has the same contents, by its name."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for name, path in files.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, unfinished / name)
        (unfinished / VERSION).write_text(json.dumps(version(root), indent=2) + "\n", encoding="utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def version(root: Path = ROOT) -> dict[str, object]:
    """The commit that the code was at, and which files differed from it; null and [] without git."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *PARTS) or ""
    return {"commit": commit and commit.strip(), "changed": [line[3:] for line in changed.splitlines()]}


def _project_files(root: Path) -> Iterator[str]:
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS)
    if listed:
        yield from filter(None, listed.split("\0"))
        return
    for part in PARTS:
        files = (root / part).rglob("*") if (root / part).is_dir() else [root / part]
        yield from (path.relative_to(root).as_posix() for path in files if "__pycache__" not in path.parts)


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git, or `root` is not of a repository."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
