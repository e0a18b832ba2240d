"""train/config/start.py: what is wrong is said before the seconds that the engine takes to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from data_pipelines.base.errors import ConfigError
from train.config.start import checked_run

COUNTED = """
import resource, sys
from train.__main__ import main
code = main(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_SELF)
print(code, "torch" in sys.modules, usage.ru_utime + usage.ru_stime)
"""


def start(*arguments: str) -> tuple[int, bool, float]:
    """(exit code, whether torch was imported, CPU seconds) of `python -m train` with these arguments."""
    command = [sys.executable, "-c", COUNTED, *arguments]
    *_, last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    code, imported, seconds = last.split()
    return int(code), imported == "True", float(seconds)


def test_what_cannot_be_composed_is_refused_without_torch() -> None:
    code, imported, seconds = start("--check", "experiment=trinity_larg")
    assert (code, imported) == (2, False)
    assert seconds < 1  # 0.2


def test_a_check_takes_seconds() -> None:
    code, imported, seconds = start("--check", "experiment=trinity_large")
    assert (code, imported) == (0, True)
    assert seconds < 5  # 2.2, most of them the import of torch


def test_a_configuration_is_checked_as_a_whole() -> None:
    assert checked_run(["experiment=smoke"]).last_step == 114
    with pytest.raises(ConfigError, match=r"model\.dims: unknown key"):
        checked_run(["experiment=smoke", "model.dims=3"])
