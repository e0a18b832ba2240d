"""A whole run on this machine: check -> prepare data -> train on all ranks -> export -> report.

`./launch/local.sh` is this module inside the environment that it makes. No process is started before the configuration
has passed every check. Ranks are started through torchrun's own launcher, as a function rather than as a process: that
keeps the exit code of the rank that failed, and its message is not buried under the launcher's.

Exit code: 0; 2 for a configuration that cannot run; else that of the first rank that failed (128 + n: by signal n).
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from train.errors import CONFIG_EXIT, ConfigError

if TYPE_CHECKING:  # both import torch, which takes seconds: not before the first line is printed
    from torch.distributed.launcher.api import LaunchConfig

    from train.config import Run

RESUME_ADVICE = "The same command goes on from the last complete checkpoint."


class Stopped(Exception):
    """A phase could not finish: what the user should know, and the exit code."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: list[str]) -> int:
    overrides = with_experiment(arguments)
    try:
        run = check(overrides)
        prepare_data(run)
        train(run, overrides)
        model_dir = export(run)
        report(run)
    except Stopped as stop:
        print(f"\nerror: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:  # before or after the training, which answers signals itself
        print(f"\nerror: stopped by SIGINT. {RESUME_ADVICE}", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"\nload the trained model, in any directory:\n  {how_to_load(model_dir)}")
    return 0


def with_experiment(overrides: list[str]) -> list[str]:
    """The smoke experiment, unless the user names another."""
    chosen = any(override.lstrip("+").startswith("experiment=") for override in overrides)
    return overrides if chosen else ["experiment=smoke", *overrides]


def check(overrides: list[str]) -> Run:
    """The checked configuration, with its run directory; all its problems at once if there are any."""
    announce(f"configuration: {shlex.join(overrides)}")
    from train import config
    from train.rundir import open_run_dir

    try:
        run = config.check(config.compose(overrides))
        open_run_dir(run)
    except ConfigError as err:
        raise Stopped(str(err), exit_code=CONFIG_EXIT) from err
    return run


def prepare_data(run: Run) -> None:
    """Done here, and not left to the ranks, for its progress bar and because they would all wait for one of them."""
    announce(f"data: {run.section('data').kind}")
    from data_pipelines.prepare import prepare

    try:
        prepare(run.section("data"))
    except (ValueError, OSError) as err:
        raise Stopped(str(err), exit_code=CONFIG_EXIT) from err


def train(run: Run, overrides: list[str]) -> None:
    announce(f"training: {run.world_size} ranks, results in {run.run_dir}")
    # A share of the cores for each rank: with all cores for all ranks, threads wait for each other.
    num_cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores // run.world_size)))
    # glibc gives large tensors back to the system when they are freed, and the next ones fault their pages in again.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 * 2**30))
    launch_ranks(["-m", "train", *overrides], num_ranks=run.world_size, run_dir=run.run_dir)


def export(run: Run) -> Path:
    model_dir = run.run_dir / "hf"
    announce(f"export: {model_dir}")
    exit_code = subprocess.call([sys.executable, "-m", "train.export", str(run.run_dir), str(model_dir)])
    if exit_code:
        raise Stopped(f"the export failed; the run itself is complete in {run.run_dir}", exit_code=exit_code)
    return model_dir


def report(run: Run) -> None:
    announce("report")
    from train.report import write_report

    print(f"\n{write_report(run.run_dir)}")


def how_to_load(model_dir: Path) -> str:
    """A shell line that lets the exported model write on."""
    code = (
        f'from transformers import pipeline; write = pipeline("text-generation", "{model_dir.resolve()}"); '
        'print(write("def main(", max_new_tokens=40)[0]["generated_text"])'
    )
    return shlex.join([sys.executable, "-c", code])


def launch_ranks(arguments: list[str], *, num_ranks: int, run_dir: Path) -> None:
    """`python <arguments>` as `num_ranks` ranks, to its end. Raises Stopped when a rank fails or a signal comes in."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it repeats what Stopped says, at length
    try:
        elastic_launch(launch_config(num_ranks, run_dir), entrypoint=sys.executable)(*arguments)
    except ChildFailedError as err:
        rank, failure = err.get_first_failure()
        stop_for_failure(rank, failure.exitcode, run_dir)
    except SignalException as err:
        name = signal.Signals(err.sigval).name
        raise Stopped(f"stopped by {name}. {RESUME_ADVICE}", exit_code=128 + err.sigval) from err


def launch_config(num_ranks: int, run_dir: Path) -> LaunchConfig:
    """What `torchrun --standalone` sets, with the words of every rank but 0 in <run>/logs."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    quiet = dict.fromkeys(range(1, num_ranks), Std.ALL)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id="local",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # port 0: any free one, so that two runs can share a machine
        local_addr="127.0.0.1",  # else it asks the name service, which a laptop may not have
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(run_dir / "logs"), redirects=quiet),
    )


def stop_for_failure(rank: int, exit_code: int, run_dir: Path) -> NoReturn:
    """exit_code: as subprocess counts it, -n for signal n."""
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    lines = [f"training stopped: rank {rank} {how}."]
    if rank > 0:  # what rank 0 said is on the screen already
        lines += last_words(rank, run_dir)
    if exit_code == -signal.SIGKILL:
        lines.append("If nobody sent it, the system did: the machine may be out of memory.")
    if exit_code != CONFIG_EXIT:
        lines.append(RESUME_ADVICE)
    raise Stopped("\n".join(lines), exit_code=128 - exit_code if exit_code < 0 else exit_code)


def last_words(rank: int, run_dir: Path, *, num_lines: int = 15) -> list[str]:
    """The end of what a rank wrote in its latest start, and where the rest is."""
    logs = sorted(run_dir.glob(f"logs/*/attempt_0/{rank}/stderr.log"), key=lambda log: log.stat().st_mtime)
    words = logs[-1].read_text(errors="replace").splitlines()[-num_lines:] if logs else []
    return [f"The end of {logs[-1]}:", *(f"  | {line}" for line in words)] if words else []


def announce(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
