"""Which code a run is trained by."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The folder that train/ lies in: a work tree of git, a copy of one, or site-packages."""
PACKAGES = ("train", "data_pipelines", "launch", "configs")
SUFFIXES = (".py", ".yaml", ".sh", ".txt")
SNAPSHOT = "version.json"
"""In a snapshot of the code: {"commit": ..., "changed": [files that differed from it]}."""
GIT_TIMEOUT_S = 10.0
"""A work tree on a slow file system must not hold up a start."""


def code_version(root: Path = ROOT) -> dict[str, Any]:
    """{"commit": ..., "dirty": whether files differ from it} of a work tree, or of what a snapshot was taken of, and
    always {"sha256": ...}, the first 16 hex digits of the hash of the code as it is."""
    return {**(_snapshot_version(root) or _git_version(root)), "sha256": code_hash(root)}


def code_hash(root: Path) -> str:
    """Of the names and contents of all code and recipes in `root`, 16 hex digits."""
    digest = hashlib.sha256()
    files = (path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in SUFFIXES)
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _snapshot_version(root: Path) -> dict[str, Any]:
    """Of a snapshot that `launch.submit` has put into a run directory; empty for other folders."""
    try:
        version = json.loads((root / SNAPSHOT).read_text(encoding="utf-8"))
        return {"commit": version["commit"], "dirty": bool(version["changed"]), "snapshot": root.name}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _git_version(root: Path) -> dict[str, Any]:
    """Empty where `root` is no work tree of its own, or git does not answer."""
    try:
        if not (root / ".git").exists():
            return {}
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S).stdout.strip()
