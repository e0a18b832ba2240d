"""Ranks of this machine: torchrun's own launcher, with processes forked from one that is warm.

Importing torch and the engine takes a core 9 s, for each of the ranks and again for the export. Here one process, the
server, does it once, from the first second on, while configuration and data are seen to; a rank is forked from it in
milliseconds. The launcher is used as a function rather than as a process: that keeps the exit code of the rank that
failed, and its message is not buried under the launcher's.

Being forked, ranks are not children of the launcher. They end with it, however it ends, because they watch it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from data_pipelines.base.errors import CONFIG_EXIT, REQUEUE_EXIT, RESUME_ADVICE, Main, Stopped
from train.process.warm import STOP_SIGNALS, nothing_left_behind, run_rank, shell_exit_code

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from torch.distributed.launcher.api import LaunchConfig


SAVE_S = 600
"""How long ranks that were asked to stop may take for their step and its checkpoint, before they are killed."""


def launch_ranks(main: Main, arguments: list[str], *, num_ranks: int, run_dir: Path) -> None:
    """`main(arguments)` on `num_ranks` ranks, to its end. Raises Stopped when a rank fails or a signal comes in.

    A rank computes with OMP_NUM_THREADS threads; the default is its share of the cores, as with all cores for all
    ranks threads wait for each other.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    launch = elastic_launch(_launch_config(num_ranks, run_dir), entrypoint=run_rank)
    try:
        with nothing_left_behind(), no_log():
            launch(main, arguments, threads_of_rank(num_ranks))
    except ChildFailedError as err:
        rank, failure = err.get_first_failure()
        _stop_for_failure(rank, failure.exitcode, run_dir)
    except SignalException as err:
        name = signal.Signals(err.sigval).name
        raise Stopped(f"stopped by {name}. {RESUME_ADVICE}", exit_code=128 + err.sigval) from err


def threads_of_rank(num_ranks: int) -> int:
    """What OMP_NUM_THREADS says, or the share of this machine's cores of one of `num_ranks` ranks."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // num_ranks))


@contextmanager
def no_log() -> Iterator[None]:
    """torch's launcher logs what we say, at length."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _launch_config(num_ranks: int, run_dir: Path) -> LaunchConfig:
    """What `torchrun --standalone` sets, with the output of every rank but 0 in <run>/logs."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    quiet = dict.fromkeys(range(1, num_ranks), Std.ALL)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id="local",
        start_method="forkserver",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # port 0: any free one, so that two runs can share a machine
        local_addr="127.0.0.1",  # else it asks the name service, which a laptop may not have
        max_restarts=0,
        shutdown_timeout=SAVE_S,
        logs_specs=DefaultLogsSpecs(str(run_dir / "logs"), redirects=quiet),
        signals_to_handle=_signals_to_handle(),
    )


def _signals_to_handle() -> str:
    """Not what is ignored on purpose: SIGHUP under nohup, SIGINT in the background of a shell script."""
    return ",".join(number.name for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


def _stop_for_failure(rank: int, exit_code: int, run_dir: Path) -> NoReturn:
    """exit_code: as subprocess counts it, -n for signal n."""
    if exit_code == REQUEUE_EXIT:
        raise Stopped(f"training stopped, as a rank was asked to. {RESUME_ADVICE}", exit_code=exit_code)
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    lines = [f"training stopped: rank {rank} {how}."]
    if rank > 0:  # what rank 0 said is on the screen already
        lines += _last_words(rank, run_dir)
    if exit_code == -signal.SIGKILL:
        lines.append("If nobody sent it, the system did: the machine may be out of memory.")
    if exit_code != CONFIG_EXIT:
        lines.append(RESUME_ADVICE)
    raise Stopped("\n".join(lines), exit_code=shell_exit_code(exit_code))


def _last_words(rank: int, run_dir: Path, *, num_lines: int = 15) -> list[str]:
    """The end of what a rank wrote in its latest start, and where the rest is."""
    logs = sorted(run_dir.glob(f"logs/*/attempt_0/{rank}/stderr.log"), key=lambda log: log.stat().st_mtime)
    words = logs[-1].read_text(errors="replace").splitlines()[-num_lines:] if logs else []
    return [f"The end of {logs[-1]}:", *(f"  | {line}" for line in words)] if words else []
