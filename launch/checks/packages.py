"""Packages of this Python and of the ranks' one, against each other and against pyproject.toml."""

from __future__ import annotations

import json
import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, NamedTuple

from data_pipelines.base.command import CONFIGS
from launch.checks import environment
from launch.checks.base import Finding, Subject, ask, count_gpus, fail, last_line, ok, warning

PROJECT = CONFIGS.parent / "pyproject.toml"
FIRST_FOR_GPUS = (2, 14)
"""torch, with torchtitan 0.3.0; see train/config/rules/machine.py."""
PIP = "python -m pip install -c launch/constraints.txt -e ."


class Requirement(NamedTuple):
    """A line of pyproject.toml's dependencies."""

    name: str
    bounds: tuple[tuple[str, str], ...]
    """(comparison, version), all of which hold."""

    def accepts(self, version: str) -> bool:
        compare = {
            "==": lambda a, b: a == b,
            ">=": lambda a, b: a >= b,
            "<": lambda a, b: a < b,
        }
        return all(compare[sign](_numbers(version), _numbers(bound)) for sign, bound in self.bounds)

    def __str__(self) -> str:
        return self.name + ",".join(sign + bound for sign, bound in self.bounds)


def packages(subject: Subject) -> Iterator[Finding]:
    requirements = read_requirements(PROJECT, liger=subject.run.loss.kernel == "liger")
    names = [requirement.name for requirement in requirements]
    here = environment.environment(names)
    yield from _against_project(here, requirements, sys.prefix)
    cluster = subject.cluster
    if cluster is not None and cluster.container.engine != "none":
        yield warning(
            f"the image {cluster.container.image} cannot be looked into from here",
            "run `python -m train --check ...` in it once, on a node",
        )
        return
    if cluster is None or cluster.venv is None or Path(cluster.venv) == Path(sys.prefix):
        yield from _cuda(subject, here, sys.prefix)
        return
    there = _ask_environment(Path(cluster.venv), names)
    if isinstance(there, Finding):
        yield there
        return
    yield from _against_project(there, requirements, cluster.venv)
    yield from _against_each_other(here, there, cluster.venv)
    yield from _cuda(subject, there, cluster.venv)


def read_requirements(project: Path, *, liger: bool) -> list[Requirement]:
    """What this machine's Python must have; of the extras only what the run uses."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lines = table["dependencies"] + (table["optional-dependencies"]["liger"] if liger else [])
    return [_parse(line) for line in lines if "triton" not in line]  # its version is torch's matter


def _parse(line: str) -> Requirement:
    name, bounds = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)", line).groups()  # type: ignore[union-attr]  # ours
    return Requirement(name, tuple(re.findall(r"(==|>=|<)\s*([\w.]+)", bounds)))


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13): a local part and zeros at the end say nothing about order."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _against_project(found: dict[str, Any], requirements: list[Requirement], place: str) -> Iterator[Finding]:
    versions = found["packages"]
    missing = [str(one) for one in requirements if versions[one.name] is None]
    others = [one for one in requirements if versions[one.name] and not one.accepts(versions[one.name])]
    ranges = [f"{one.name} {versions[one.name]} (needs {one})" for one in others if one.name == "torch"]
    pins = [f"{one.name} {versions[one.name]} (tested: {one})" for one in others if one.name != "torch"]
    if _numbers(found["python"]) < (3, 11):
        yield fail(
            f"{place}: Python {found['python']}, 3.11 or newer is needed", "make the environment with another one"
        )
    if missing:
        yield fail(f"{place}: not installed: {', '.join(missing)}", PIP)
    if ranges:
        yield fail(f"{place}: {', '.join(ranges)}", f"{PIP} 'torch==2.13.0' (or another of the range)")
    if pins:
        yield warning(f"{place}: other versions than tested: {', '.join(pins)}", PIP)
    if not (missing or ranges or pins):
        yield ok(f"{place}: Python {found['python']}, torch {versions['torch']}, every package as in pyproject.toml")


def _ask_environment(venv: Path, names: list[str]) -> dict[str, Any] | Finding:
    """What the Python of the ranks has."""
    python = venv / "bin/python"
    if not python.exists():
        return fail(f"cluster.venv={venv}: {python} does not exist", "correct the path, or make the environment there")
    source = Path(environment.__file__).read_text(encoding="utf-8")
    try:
        answer = ask([python, "-c", source, *names])
    except (OSError, TimeoutExpired) as error:
        return fail(f"cluster.venv={venv}: its Python does not run ({error})", "make it anew")
    try:
        return json.loads(answer.stdout)
    except ValueError:
        return fail(f"cluster.venv={venv}: its Python does not run ({last_line(answer.stderr)})", "make it anew")


def _against_each_other(here: dict[str, Any], there: dict[str, Any], venv: str) -> Iterator[Finding]:
    versions = [("Python", here["python"], there["python"])]
    versions += [(name, version, there["packages"][name]) for name, version in here["packages"].items()]
    different = [f"{name} {a} here, {b} there" for name, a, b in versions if a and b and _numbers(a) != _numbers(b)]
    if different:
        yield warning(
            f"this Python and cluster.venv={venv} differ: {', '.join(different)}",
            f"submit from that environment: source {venv}/bin/activate",
        )
    else:
        yield ok(f"{venv} has the same versions as this Python ({platform.node()})")


def _cuda(subject: Subject, found: dict[str, Any], place: str) -> Iterator[Finding]:
    """A CPU build on a node with GPUs would train on its CPUs, or not at all."""
    asks_for_gpus = subject.cluster is not None and subject.cluster.gpus_per_node
    torch = found["packages"]["torch"]
    if torch and asks_for_gpus and found["cuda"] and _numbers(torch) < FIRST_FOR_GPUS:
        yield fail(
            f"{place}: torch {torch} has no torch.distributed.set_timeout, which torchtitan calls on GPUs",
            "install a later one: pip install torch==2.15.0",
        )
    if found["cuda"] is None and torch:
        what = f"{place}: torch {torch} is a build without CUDA"
        if asks_for_gpus:
            yield fail(
                f"{what}, cluster.gpus_per_node={asks_for_gpus}", "install a CUDA build: pip install torch==2.15.0"
            )
        elif subject.cluster is None and count_gpus():
            yield warning(
                f"{what}, and this machine has {count_gpus()} GPUs: they would not be used",
                "install a CUDA build: pip install torch==2.15.0",
            )


CHECKS = (packages,)
