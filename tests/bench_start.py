"""What it takes until the commands speak, and until those end that people wait for before a run.

    python -m tests.bench_start

Seconds until the first output are those of the clock, of a machine that has nothing else to do; the others are of the
processor. Ends with status 1 where a command takes more than it may.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.data_pipelines.base.test_command import COMMANDS
from tests.measured import run_measured

FIRST_OUTPUT_S = 1.0


class Case(NamedTuple):
    command: Sequence[str]
    exit_code: int
    cpu_s: float
    """The most that it may take."""
    peak_bytes: float = 1e9


CASES = (
    Case(("train", "--check", "experiment=trinity_large"), 0, 5),
    Case(("train", "--check", "experiment=trinity_larg"), 2, 1),
    Case(("train.model", "trinity_large", "parallelism=hsdp_ep8"), 0, 20, 4e9),
    Case(("launch.preflight", "experiment=trinity_large"), 2, 20),
    Case(("launch.status",), 0, 1),
    *(Case((name.removesuffix(".__main__"), "--help"), 0, 1) for name in COMMANDS),
)


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(
        prog="python -m tests.bench_start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    print(f"{'command':<56}{'first output':>14}{'CPU':>9}{'allowed':>9}{'memory':>9}{'allowed':>9}")
    with TemporaryDirectory() as folder:
        return int(any([is_over(case, Path(folder)) for case in CASES]))


def is_over(case: Case, folder: Path) -> bool:
    """Prints a row."""
    taken = run_measured(*case.command, folder=folder)
    if taken.exit_code != case.exit_code:
        sys.exit(f"{' '.join(case.command)} ended with {taken.exit_code}:\n{taken.output}")
    figures = (taken.first_output_s, taken.cpu_s, taken.peak_bytes)
    allowed = (FIRST_OUTPUT_S, case.cpu_s, case.peak_bytes)
    is_over = any(figure > bound for figure, bound in zip(figures, allowed, strict=True))
    print(
        f"{' '.join(case.command):<56}{taken.first_output_s:>12.2f} s{taken.cpu_s:>7.2f} s{case.cpu_s:>7.0f} s"
        f"{taken.peak_bytes / 1e9:>6.2f} GB{case.peak_bytes / 1e9:>6.0f} GB{'  <- too much' if is_over else ''}"
    )
    return is_over


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
