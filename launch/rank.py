"""One rank of a job: a task of srun becomes what torchrun would have made it, and trains.

    srun python -m launch.rank experiment=smoke ...        in a batch script (launch/slurm/job.sh)

What rank 0 says is the log of the job; every other rank has a file of its own in <run>/logs/job-<number>.<start>/.
Exit codes are those of `python -m train`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.base.command import run_command
from data_pipelines.base.errors import CONFIG_EXIT, REQUEUE_EXIT, RESUME_ADVICE, ConfigError, answers_errors
from launch.slurm.environment import rank_environment


@answers_errors({ConfigError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    os.environ.update(rank_environment(os.environ))
    if os.environ["RANK"] != "0":
        write_to(rank_log(Path(os.environ["RUN_DIR"]), os.environ))
    from train.__main__ import main as train

    return train(arguments)


def rank_log(run_dir: Path, environment: Mapping[str, str]) -> Path:
    start = f"{environment['SLURM_JOB_ID']}.{environment.get('SLURM_RESTART_COUNT', '0')}"
    return run_dir / "logs" / f"job-{start}" / f"rank-{environment['RANK']}.log"


def write_to(log: Path) -> None:
    """Sends all that this process says, and its children, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def end_with_nothing_to_save(number: int, frame: object) -> None:
    """Until the program hears signals itself: a few milliseconds, and the import of it."""
    os._exit(REQUEUE_EXIT)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, end_with_nothing_to_save)
    run_command(main, advice=RESUME_ADVICE)
