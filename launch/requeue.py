"""The last command of a batch script: should the job go on? Imports no torch, and asks SLURM nothing.

    python -m launch.requeue RUN_DIR --checkpoints DIR --exit-code 10 --max-starts 3

Prints one line for the script: `requeue`; `end`; in a chain `end` as well where the next job may start, or
`cancel 102 103` where it must not. The reason goes to stderr, and with the decision to <run>/starts.jsonl.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import REQUEUE_EXIT
from launch.slurm.requeue import decide, successors
from train.checkpoint.commits import newest_step
from train.process.starts import append_event, read_events

LAST_LINES = 15


def main(arguments: list[str]) -> int:
    parser = command_parser("python -m launch.requeue", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--exit-code", type=int, required=True, help="of the ranks, as srun gives it")
    parser.add_argument("--max-starts", type=int, required=True, help="without progress, in a row")
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
    waiting = successors(events, job)
    if decision.goes_on:
        print("end" if args.chained else "requeue")
    else:
        print(" ".join(["cancel", *waiting]) if waiting else "end")
    return 0


def say_why(run_dir: Path, job: str, reason: str, exit_code: int) -> None:
    """Into the log of the job. What other ranks than 0 said last is shown only after a failure."""
    print(f"job {job}: {reason}", file=sys.stderr)
    logs = sorted((run_dir / "logs").glob(f"job-{job}.*/rank-*.log"), key=lambda log: log.stat().st_mtime)
    spoke = [log for log in logs if log.stat().st_size]
    if exit_code not in (0, REQUEUE_EXIT) and spoke:
        print(f"what ranks said is in {spoke[-1].parent}; the end of {spoke[-1].name}:", file=sys.stderr)
        for line in spoke[-1].read_text(errors="replace").splitlines()[-LAST_LINES:]:
            print(f"  | {line}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
