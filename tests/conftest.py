"""What all tests take for granted, and what several of them begin with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_counts() -> Iterator[None]:
    """A shell ignores SIGINT in what it runs in the background, such as these tests, and programs inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def own_experiment(tmp_path: Path) -> Path:
    """A folder for --config-dir, with experiment=mine: the smoke run with another speed of balancing."""
    folder = tmp_path / "own"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - smoke\n\nrun:\n  name: mine\nbalance:\n  speed: 0.125\n"
    )
    return folder
