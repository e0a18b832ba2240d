"""Ranks of this machine: torchrun's own launcher, with processes forked from one that is warm.

Importing torch and the engine takes a core 9 s, for each of the ranks and again for the export. Here one process does
it once, from the first second on, while configuration and data are seen to; a rank is forked from it in milliseconds.
The launcher is used as a function rather than as a process: that keeps the exit code of the rank that failed, and its
message is not buried under the launcher's.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from train.errors import CONFIG_EXIT

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from torch.distributed.launcher.api import LaunchConfig

RESUME_ADVICE = "The same command goes on from the last complete checkpoint."

WARM = multiprocessing.get_context("forkserver")
"""Makes processes that have imported the engine."""

Main = Callable[[list[str]], int]
"""A program as a function: its arguments -> its exit code."""


class Stopped(Exception):
    """A phase could not finish: what the user should know, and the exit code."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def warm_up() -> None:
    """Starts the process that the others are forked from. Returns at once."""
    # glibc gives large tensors back to the system when they are freed, and the next ones fault their pages in again;
    # huge pages fault in once where small ones do 512 times.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 * 2**30))
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    # Else torch asks the CUDA driver whether there is a GPU, and a fork of a process that did cannot use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    WARM.set_forkserver_preload(["train.build", "train.export"])
    forkserver.ensure_running()


def run_warm(main: Main, arguments: list[str]) -> int:
    """`main(arguments)` in a process of its own, to its end. Returns its exit code."""
    process = WARM.Process(target=_exit_with, args=(main, arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def launch_ranks(main: Main, arguments: list[str], *, num_ranks: int, run_dir: Path) -> None:
    """`main(arguments)` on `num_ranks` ranks, to its end. Raises Stopped when a rank fails or a signal comes in."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it repeats what Stopped says, at length
    # A share of the cores for each rank: with all cores for all ranks, threads wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_ranks)))
    try:
        elastic_launch(_launch_config(num_ranks, run_dir), entrypoint=_rank_main)(main, arguments)
    except ChildFailedError as err:
        rank, failure = err.get_first_failure()
        _stop_for_failure(rank, failure.exitcode, run_dir)
    except SignalException as err:
        name = signal.Signals(err.sigval).name
        raise Stopped(f"stopped by {name}. {RESUME_ADVICE}", exit_code=128 + err.sigval) from err


def _rank_main(main: Main, arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # the variable alone comes too late: OpenMP is loaded
    _exit_with(main, arguments)


def _exit_with(main: Main, arguments: list[str]) -> None:
    """Returns after a success: the launcher waits for it."""
    if exit_code := main(arguments):
        sys.exit(exit_code)


def _launch_config(num_ranks: int, run_dir: Path) -> LaunchConfig:
    """What `torchrun --standalone` sets, with the words of every rank but 0 in <run>/logs."""
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
        logs_specs=DefaultLogsSpecs(str(run_dir / "logs"), redirects=quiet),
    )


def _stop_for_failure(rank: int, exit_code: int, run_dir: Path) -> NoReturn:
    """exit_code: as subprocess counts it, -n for signal n."""
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    lines = [f"training stopped: rank {rank} {how}."]
    if rank > 0:  # what rank 0 said is on the screen already
        lines += _last_words(rank, run_dir)
    if exit_code == -signal.SIGKILL:
        lines.append("If nobody sent it, the system did: the machine may be out of memory.")
    if exit_code != CONFIG_EXIT:
        lines.append(RESUME_ADVICE)
    raise Stopped("\n".join(lines), exit_code=128 - exit_code if exit_code < 0 else exit_code)


def _last_words(rank: int, run_dir: Path, *, num_lines: int = 15) -> list[str]:
    """The end of what a rank wrote in its latest start, and where the rest is."""
    logs = sorted(run_dir.glob(f"logs/*/attempt_0/{rank}/stderr.log"), key=lambda log: log.stat().st_mtime)
    words = logs[-1].read_text(errors="replace").splitlines()[-num_lines:] if logs else []
    return [f"The end of {logs[-1]}:", *(f"  | {line}" for line in words)] if words else []
