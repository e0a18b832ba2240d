"""Puts a run into the queue of a SLURM cluster: check -> snapshot of the code -> script -> sbatch.

    python -m launch.submit experiment=trinity_large cluster=h100_256nodes cluster.partition=hopper cluster.account=llm
    python -m launch.submit experiment=smoke cluster=cpu_2nodes --dry-run     only prints the script
    python -m launch.submit experiment=smoke cluster=cpu_2nodes --chain 20    jobs that go on one after the other, where
                                                                              a cluster forbids to requeue them
    python -m launch.submit -m experiment=smoke cluster=cpu_2nodes optimizer.muon.lr=1e-2,2e-2
                                                                              a job array, a run for each value

Everything is checked before anything is queued or written, by launch.preflight too (--anyway leaves that out). The job
goes on by itself: it saves before its time limit and when it is preempted, is put into the queue again after a failure,
and stops after 3 starts without progress. It runs the code as it was now, from <run>/code; its script and log are in
<run>/slurm. The same command again, once no job of the run is queued, goes on from the last complete checkpoint.

Exit code: 0; 2 where nothing was queued.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from data_pipelines.base.command import overrides_parser, parse_overrides, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors
from launch.preflight import announce, failed, preflight, table

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from train.config.run import Run


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if args.cfg or args.info:
        from train.config.start import print_settings

        return print_settings(args)
    print("submit: reading the configuration", file=sys.stderr, flush=True)
    from launch.slurm.submission import prepared, submit_array, submit_run
    from train.config.start import checked_run
    from train.config.sweep import open_jobs

    look = (lambda run: None) if args.anyway else refuse_failing
    command = shlex.join(["python", "-m", "launch.submit", *(word for word in arguments if word != "--dry-run")])
    if args.multirun:
        submissions = [prepared(job.run, job.overrides, args, command) for job in open_jobs(args.overrides)]
        return submit_array(submissions, args, look)
    return submit_run(prepared(checked_run(args.overrides), args.overrides, args, command), args, look)


def refuse_failing(run: Run) -> None:
    """Says what preflight warns of. Raises ConfigError with all that it knows to fail."""
    findings = preflight(run, announce)
    if warnings := [finding for finding in findings if finding.level == "warning"]:
        print(table(warnings), file=sys.stderr)
    if failures := failed(findings):
        raise ConfigError([f"{failure.what}; {failure.remedy}" for failure in failures])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = overrides_parser(
        "python -m launch.submit", description=__doc__, multirun="a job array, a run for each value"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the script; queue and write nothing")
    parser.add_argument("--anyway", action="store_true", help="without launch.preflight, which would refuse or warn")
    parser.add_argument(
        "--chain", type=int, default=1, metavar="N", help="N jobs, each of which goes on when the one before has ended"
    )
    args = parse_overrides(parser, arguments)
    if args.chain < 1:
        parser.error(f"argument --chain: must be at least 1, got {args.chain}")
    if args.multirun and args.chain > 1:
        parser.error("--chain is for one run; leave out --multirun")
    return args


if __name__ == "__main__":
    run_command(main)
