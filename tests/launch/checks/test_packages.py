"""launch/checks/packages.py: versions here, versions there, versions that were tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.checks import environment, packages
from launch.checks.packages import PROJECT, read_requirements
from tests.launch.checks.world import GPUS, Fault, World, assert_found

NAMES = [requirement.name for requirement in read_requirements(PROJECT, liger=False)]


def here(**changes: str | None) -> dict[str, Any]:
    """This Python, with some packages of other versions."""
    facts = environment.environment(NAMES)
    return facts | {"packages": facts["packages"] | {name.replace("_", "-"): one for name, one in changes.items()}}


def login_has(world: World, **changes: str | None) -> None:
    facts = here(**changes)
    world.patch.setattr(environment, "environment", lambda names: facts)


def nodes_have(world: World, facts: dict[str, Any] | str, *overrides: str) -> None:
    """A cluster.venv whose Python answers so."""
    python = world.folder / "venv/bin/python"
    python.parent.mkdir(parents=True)
    answer = facts if isinstance(facts, str) else f"cat <<'E'\n{json.dumps(facts)}\nE"
    python.write_text(f"#!/bin/sh\n{answer}\n")
    python.chmod(0o755)
    world.on_cluster(f"cluster.venv={world.folder}/venv", *overrides)


FAULTS = {
    "package that is missing": Fault(
        lambda world: login_has(world, wandb=None), "fail", "not installed: wandb==0.31.0"
    ),
    "torch out of its range": Fault(lambda world: login_has(world, torch="2.16.0"), "fail", r"torch 2\.16\.0 \(needs"),
    "package of another version": Fault(
        lambda world: login_has(world, hydra_core="1.2.0"), "warning", r"hydra-core 1\.2\.0 \(tested"
    ),
    "no environment for the ranks": Fault(
        lambda world: world.on_cluster("cluster.venv=/nowhere"), "fail", "/nowhere/bin/python does not exist"
    ),
    "Python of the ranks that does not run": Fault(
        lambda world: nodes_have(world, "echo libpython3.11.so: cannot open >&2; exit 127"), "fail", "libpython"
    ),
    "package that is missing there": Fault(
        lambda world: nodes_have(world, here(torchtitan=None)), "fail", "venv: not installed: torchtitan"
    ),
    "package of another version there": Fault(
        lambda world: nodes_have(world, here(torch="2.14.1")), "warning", r"torch \S+ here, 2\.14\.1 there"
    ),
    "older Python there": Fault(
        lambda world: nodes_have(world, here() | {"python": "3.10.2"}), "fail", r"Python 3\.10\.2, 3\.11 or newer"
    ),
    "CPU build on GPU nodes": Fault(
        lambda world: nodes_have(world, here() | {"cuda": None}, *GPUS), "fail", "a build without CUDA"
    ),
    "torch that is too old for GPUs": Fault(
        lambda world: nodes_have(world, here(torch="2.13.0") | {"cuda": "13.0"}, *GPUS),
        "fail",
        r"torch 2\.13\.0 has no torch\.distributed\.set_timeout",
    ),
    "CPU build beside GPUs": Fault(
        lambda world: world.patch.setattr(packages, "count_gpus", lambda: 8),
        "warning",
        "8 GPUs: they would not be used",
    ),
    "image that cannot be looked into": Fault(
        lambda world: world.on_cluster("cluster.container={engine: pyxis, image: 'nvcr.io#a/b:1'}"),
        "warning",
        "nvcr.io#a/b:1 cannot be looked into",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    world.patch.setattr(packages, "count_gpus", lambda: 0)
    if name == "CPU build beside GPUs":
        facts = here() | {"cuda": None}
        world.patch.setattr(environment, "environment", lambda names: facts)
    assert_found(world, FAULTS[name])


def test_the_python_of_the_ranks_is_asked_and_found_to_be_like_this_one(world: World) -> None:
    """A link to this very interpreter: what it runs is the text of environment.py."""
    (world.folder / "venv/bin").mkdir(parents=True)
    script = f'exec "{sys.executable}" "$@"'
    (world.folder / "venv/bin/python").write_text(f"#!/bin/sh\n{script}\n")
    (world.folder / "venv/bin/python").chmod(0o755)
    world.on_cluster(f"cluster.venv={world.folder}/venv")
    assert any("has the same versions as this Python" in finding.what for finding in world.findings())


def test_lines_of_pyproject_become_bounds(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["torch>=2.13,<2.16", "pyright[nodejs]==1.1", "triton>=3; sys == \'L\'"]\n'
        '[project.optional-dependencies]\nliger = ["liger-kernel==0.8.5"]\n'
    )
    torch, pyright, liger = read_requirements(project, liger=True)
    assert [torch.accepts(version) for version in ("2.12.9", "2.13.0+cpu", "2.15.1", "2.16.0")] == [
        False,
        True,
        True,
        False,
    ]
    assert pyright.accepts("1.1.0")
    assert not pyright.accepts("1.1.1")
    assert str(liger) == "liger-kernel==0.8.5"
