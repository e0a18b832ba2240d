"""How runs are doing: a table, a line a run.

    python -m launch.status                      all runs under runs/
    python -m launch.status runs/smoke /data/x   these
    python -m launch.status --watch 10           again every 10 seconds (without a number: 5), until Ctrl-C
    python -m launch.status --json               one JSON array, every figure

Reads the run directories, from any machine that sees them, and asks SLURM for jobs where there are some. States:
queued, running, stalled (no sign of life for longer than usual), finished, stopped (and why), new, damaged. Goodput is
the share of the wall time since the first start that went into steps that count (launch/board/state.py).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors, words

if TYPE_CHECKING:  # imports pydantic and yaml, which take time: not before Ctrl-C is a line
    from launch.board.state import Status

T = TypeVar("T")
RUNS = Path("runs")
WATCH_S = 5.0
CLEAR = "\x1b[H\x1b[2J"


def statuses(run_dirs: Sequence[Path], *, now: float | None = None) -> list[Status]:
    """Of each run directory, in order."""
    from launch.board.facts import Facts, read_facts
    from launch.board.slurm import jobs_of, look_up
    from launch.board.state import status_of
    from launch.board.table import table

    def shown(facts: Facts) -> Status:
        status = status_of(facts, jobs, now=time.time() if now is None else now)
        table([status])
        json.dumps(asdict(status), allow_nan=False)
        return status

    found = [_or_damaged(run_dir, partial(read_facts, run_dir)) for run_dir in run_dirs]
    jobs = look_up(job for facts in found if isinstance(facts, Facts) for job in jobs_of(facts.events))
    return [_or_damaged(one.run_dir, partial(shown, one)) if isinstance(one, Facts) else one for one in found]


def _or_damaged(run_dir: Path, look: Callable[[], T]) -> T | Status:
    """Files of one run in which somebody has written what no version of this program would must not hide the others."""
    from launch.board.state import Status

    try:
        return look()
    except Exception as error:
        return Status(run=run_dir.name, state="damaged", why=f"cannot be shown: {type(error).__name__}: {words(error)}")


def chosen(named: Sequence[Path]) -> list[Path]:
    """The run directories to show. Raises ConfigError for each that is none."""
    from launch.board.facts import is_run_dir

    if not named:
        return sorted(path for path in RUNS.glob("*") if is_run_dir(path)) if RUNS.is_dir() else []
    wrong = [
        f"{path}: no run directory: it has neither config.yaml nor metrics.jsonl"
        for path in named
        if not is_run_dir(path)
    ]
    if wrong:
        raise ConfigError(wrong)
    return list(named)


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m launch.status", description=__doc__)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="*", help="run directories; none: all under runs/")
    parser.add_argument("--watch", metavar="SECONDS", type=float, nargs="?", const=WATCH_S, help="again and again")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_intermixed_args(arguments)
    if args.watch is not None and args.watch <= 0:
        parser.error(f"argument --watch: must be a number of seconds above 0, got {args.watch:g}")
    while True:
        shown = text(chosen(args.runs), as_json=args.json)
        print(CLEAR + shown if args.watch and sys.stdout.isatty() else shown, flush=True)
        if not args.watch:
            return 0
        time.sleep(args.watch)


def text(run_dirs: Sequence[Path], *, as_json: bool) -> str:
    from launch.board.table import table

    found = statuses(run_dirs)
    if as_json:
        return json.dumps([asdict(status) for status in found], indent=None)
    return table(found) if found else f"no runs in {RUNS.absolute()}; name a run directory"


if __name__ == "__main__":
    run_command(main)
