"""The world that faults are planted in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.checks.world import World, fresh
from tests.train.small import small_settings


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, tokenizer and settings, made once."""
    folder = tmp_path_factory.mktemp("template")
    settings = small_settings(folder)
    shutil.copytree(folder / "shards", folder / "held_out")
    settings += [f"data.sources.random.held_out={folder}/held_out", "validation.windows=2", "parallelism=single"]
    (folder / "settings").write_text("\n".join(settings))
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, fresh(template, tmp_path), monkeypatch)
    with world.at_end:
        yield world
