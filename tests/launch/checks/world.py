"""A run that nothing is wrong with, on a machine and a cluster of stand-ins, for faults to be planted in."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_pipelines.settings.compose import compose
from launch.checks import configuration, storage
from launch.checks.base import Finding
from launch.preflight import preflight
from train.config import start
from train.config.run import Run

GPUS = ("cluster.gpus_per_node=2", "cluster.cpu_ranks_per_node=1")
"""What makes GPU nodes of the test cluster's."""
SBATCH = 'echo "sbatch: Job 7 to start at 2026-11-26T15:00:00 using 4 processors on nodes n[1-2]" >&2'


class World:
    """What preflight looks at."""

    def __init__(self, folder: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.settings = settings
        self.patch = monkeypatch
        self.at_end = ExitStack()
        """What a fault holds open while preflight looks."""
        self.bin = folder / "bin"
        self.bin.mkdir()
        for size in ("PROBE_BYTES", "PROBE_PIECE"):
            monkeypatch.setattr(storage, size, 2**16)
        monkeypatch.setattr(start, "compose", self.compose)
        for name in ("MASTER_PORT", "WANDB_API_KEY", "WANDB_BASE_URL", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(folder / "netrc"))
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def set(self, *overrides: str) -> None:
        self.settings += overrides

    def command(self, name: str, script: str) -> Path:
        """A program on PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def on_cluster(self, *overrides: str, mesh: str = "hsdp_2x2_ep2", cluster: str = "cpu_2nodes") -> None:
        """Two nodes of two CPU ranks, unless another is named, and the mesh for them."""
        self.command("sbatch", SBATCH)
        self.command("sinfo", "echo 'main*|256|infinite'")
        for name in ("squeue", "scontrol"):
            self.command(name, "true")
        self.patch.setattr(storage, "LOCAL_TYPES", ())
        self.set(f"parallelism={mesh}", f"cluster={cluster}", *overrides)

    def compose(self, overrides: list[str]) -> dict[str, Any]:
        """As Hydra does, once for each list of overrides: it is most of the time that preflight takes here."""
        place, here = "/somewhere", str(self.folder)
        return json.loads(composed(*(text.replace(here, place) for text in overrides)).replace(place, here))

    def read(self) -> Run:
        run, problems = configuration.read([*self.settings, f"run.dir={self.run_dir}"])
        assert run is not None, problems
        return run

    def findings(self) -> list[Finding]:
        run, problems = configuration.read([*self.settings, f"run.dir={self.run_dir}"])
        return problems if run is None else preflight(run)

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*"))


@cache
def composed(*overrides: str) -> str:
    """The configuration as JSON."""
    return json.dumps(compose(list(overrides)))


class Fault(NamedTuple):
    """Something that is wrong, and what is said of it."""

    plant: Callable[[World], object]
    level: str
    says: str
    """Pattern of the finding."""


def assert_found(world: World, fault: Fault) -> None:
    """The fault is found, with its level and a remedy, and nothing is left behind."""
    fault.plant(world)
    before = world.files()
    bad = [finding for finding in world.findings() if finding.level != "ok"]
    said = "\n".join(f"{finding.level}: {finding.what}\n  -> {finding.remedy}" for finding in bad)
    print(said)
    assert any(finding.level == fault.level and re.search(fault.says, finding.what) for finding in bad), said
    assert all(finding.remedy for finding in bad), said
    assert not [finding for finding in bad if "could not be checked" in finding.what], said
    assert world.files() == before


def fresh(template: Path, folder: Path) -> list[str]:
    """A copy of the shards and the tokenizer in `template`, and the settings of a run on it."""
    shutil.copytree(template, folder / "data")
    return [
        *(
            text.replace(str(template), str(folder / "data"))
            for text in (template / "settings").read_text().splitlines()
        ),
    ]
