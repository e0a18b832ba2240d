"""pyproject.toml and launch/constraints.txt say what the code needs, and the same versions."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("train", "data_pipelines", "launch", "tests")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = PROJECT["dependencies"]
DEV = PROJECT["optional-dependencies"]["dev"]
OPTIONAL = PROJECT["optional-dependencies"]["liger"] + PROJECT["optional-dependencies"]["gguf"]
PINS = RUNTIME + DEV + OPTIONAL


def distribution(requirement: str) -> str:
    """'pyright[nodejs]==1.1.414' -> 'pyright'"""
    return re.split(r"[\[=<>; ]", requirement)[0].lower().replace("_", "-")


def imported_distributions(folder: str) -> set[str]:
    """Distributions of all third-party modules that the Python files of a folder import, anywhere in them."""
    modules: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    owners = packages_distributions()
    third_party = modules - set(sys.stdlib_module_names) - set(OURS)
    return {owners.get(module, [module])[0].lower().replace("_", "-") for module in third_party}


def test_every_exact_pin_is_in_the_lock() -> None:
    lock = (ROOT / "launch" / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pins = [re.sub(r"\[.*\]", "", pin).lower().replace("_", "-") for pin in PINS if "==" in pin.split(";")[0]]
    assert [pin for pin in pins if pin not in lock] == []


def test_everything_is_pinned_exactly_but_torch_and_triton() -> None:
    loose = {distribution(pin) for pin in PINS if "==" not in pin.split(";")[0]}
    assert loose == {"torch", "triton"}


def test_everything_that_the_code_imports_is_declared() -> None:
    declared = {distribution(pin) for pin in RUNTIME + OPTIONAL}
    for folder in ("train", "data_pipelines", "launch"):
        assert imported_distributions(folder) - declared == set()
    in_tests = imported_distributions("tests") - {"megatron", "megatron-core", "streaming", "mosaicml-streaming"}
    assert in_tests - declared - {distribution(pin) for pin in DEV} == set()  # tests/bench_loader says where these are


def test_the_trainer_starts_without_the_liger_extra() -> None:
    starts_with = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "train").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "liger" in ast.unparse(node)
    }
    assert starts_with == {"train/loss/liger.py"}
