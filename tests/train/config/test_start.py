"""train/config/start.py: what is wrong is said before the seconds that the engine takes to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from data_pipelines.base.errors import ConfigError
from train.config.start import checked_run

HEAVY = ("torch", "torchtitan.trainer", "datasets", "wandb", "matplotlib")
"""Each takes a second or more to import."""
STARTED = f"""
import sys
from train.__main__ import main
code = main(sys.argv[1:])
print(code, *(name for name in {HEAVY} if name in sys.modules))
"""


def start(*arguments: str) -> tuple[int, list[str]]:
    """(exit code, which of HEAVY were imported) of `python -m train` with these arguments."""
    command = [sys.executable, "-c", STARTED, *arguments]
    *_, last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    code, *imported = last.split()
    return int(code), imported


def test_what_cannot_be_composed_is_refused_without_torch() -> None:
    assert start("--check", "experiment=trinity_larg") == (2, [])


def test_a_check_imports_torch_alone() -> None:
    """`python -m tests.bench_start` has the seconds of it."""
    assert start("--check", "experiment=trinity_large") == (0, ["torch"])


def test_a_configuration_is_checked_as_a_whole() -> None:
    assert checked_run(["experiment=smoke"]).last_step == 114
    with pytest.raises(ConfigError, match=r"model\.dims: unknown key"):
        checked_run(["experiment=smoke", "model.dims=3"])
