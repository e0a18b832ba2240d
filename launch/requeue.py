"""The last command of a batch script: should the job go on? Imports no torch, and asks SLURM nothing.

    python -m launch.requeue RUN_DIR --checkpoints DIR --exit-code 10 --max-starts 3 --exclude-after 2

Prints three words for the script: what to do, jobs that wait for this one, nodes that stalled too often; - for none:

    requeue - n7         this job
    end 102,103 -        the next job of the chain goes on, or the run is over
    cancel 102,103 -     as the next one must not

The reason goes to stderr, and with the decision to <run>/starts.jsonl.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import REQUEUE_EXIT
from launch.slurm.requeue import decide, stalled_nodes, successors
from train.checkpoint.commits import newest_step
from train.metrics.wandb_files import ID_FILE
from train.process.starts import append_event, read_events

LAST_LINES = 15
TELL_S = 180
"""How long W&B may hold up the end of a job."""


def main(arguments: list[str]) -> int:
    parser = command_parser("python -m launch.requeue", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--exit-code", type=int, required=True, help="of the ranks, as srun gives it")
    parser.add_argument("--max-starts", type=int, required=True, help="without progress, in a row")
    parser.add_argument("--exclude-after", type=int, required=True, help="stalls that a node is suspected of")
    parser.add_argument("--chained", action="store_true", help="another job goes on, by its dependency on this one")
    args = parser.parse_args(arguments)

    job = os.environ.get("SLURM_JOB_ID", "")
    events, step = read_events(args.run_dir), newest_step(args.checkpoints)
    decision = decide(events, job=job, exit_code=args.exit_code, step=step, max_starts=args.max_starts)
    if args.run_dir.is_dir():  # a first start that was refused leaves none
        append_event(
            args.run_dir,
            "decision",
            job=job,
            exit_code=decision.exit_code,
            step=step,
            requeue=decision.goes_on,
            reason=decision.reason,
        )
    say_why(args.run_dir, job, decision.reason, decision.exit_code)
    if not decision.goes_on and decision.exit_code != 0:
        tell_wandb(args.run_dir)
    waiting = successors(events, job)
    if decision.goes_on:
        nodes = stalled_nodes(events, at_least=args.exclude_after)
        say("end" if args.chained else "requeue", waiting, nodes)
    else:
        say("cancel" if waiting else "end", waiting, [])
    return 0


def say(verdict: str, jobs: Sequence[str], nodes: Sequence[str]) -> None:
    print(verdict, ",".join(jobs) or "-", ",".join(nodes) or "-")


def say_why(run_dir: Path, job: str, reason: str, exit_code: int) -> None:
    """Into the log of the job. What other ranks than 0 said last is shown only after a failure."""
    print(f"job {job}: {reason}", file=sys.stderr)
    logs = sorted((run_dir / "logs").glob(f"job-{job}.*/rank-*.log"), key=lambda log: log.stat().st_mtime)
    spoke = [log for log in logs if log.stat().st_size]
    if exit_code not in (0, REQUEUE_EXIT) and spoke:
        print(f"what ranks said is in {spoke[-1].parent}; the end of {spoke[-1].name}:", file=sys.stderr)
        for line in spoke[-1].read_text(errors="replace").splitlines()[-LAST_LINES:]:
            print(f"  | {line}", file=sys.stderr)


def tell_wandb(run_dir: Path) -> None:
    """No later start does."""
    if not (run_dir / ID_FILE).is_file():
        return
    command = [sys.executable, "-m", "launch.catch_up", str(run_dir)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdout=sys.stderr, timeout=TELL_S)


if __name__ == "__main__":
    run_command(main)
