"""Processes forked from one that has imported the engine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from data_pipelines.base.errors import Main
from data_pipelines.base.workers import end_with_parent

WARM = multiprocessing.get_context("forkserver")
"""Makes processes that have imported the engine."""
WARM.set_forkserver_preload(["train.loop.build", "train.export"])


ENVIRONMENT = {
    # glibc gives large tensors back to the system when they are freed, and the next ones fault their pages in again;
    # huge pages fault in once where small ones do 512 times.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # Else torch asks the CUDA driver whether there is a GPU, and a fork of a process that did cannot use it.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Set for the server, and so for all that it forks, unless the user has set it."""


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Those that the launcher hands on to its ranks."""


LINGER_S = 0.5
"""How long a failed rank stays. The launcher looks every 0.1 s and blames any rank that has ended by then; the end of
one makes the others fail, so that without this it might blame one of those."""


def warm_up() -> None:
    """Starts the server. Returns at once."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _start_resource_tracker()  # the server would start it, and that unblocks SIGINT
    # Ctrl-C goes to all processes of the terminal; in the server it would end in a traceback of whatever it imports.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_resource_tracker() -> None:
    """Python's own process that removes the semaphores of killed ones. It would warn of them at the end, too."""
    before = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = "ignore"
    resource_tracker.ensure_running()
    os.environ["PYTHONWARNINGS"] = before  # empty is the same as unset


def run_warm(main: Main, arguments: list[str]) -> int:
    """`main(arguments)` in a process of its own, to its end. Returns its exit code, 128 + n for signal n."""
    process = WARM.Process(target=_run, args=(main, arguments))
    with nothing_left_behind():
        process.start()
        process.join()
    assert process.exitcode is not None
    return shell_exit_code(process.exitcode)


def start_warm(main: Main, arguments: list[str], *, log: Path, num_threads: int) -> ForkServerProcess:
    """Starts `main(arguments)` in a process of its own, which ends with this one; what it prints goes to `log`."""
    process = WARM.Process(target=_run_logged, args=(main, arguments), kwargs={"log": log, "num_threads": num_threads})
    process.start()
    return process


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Ends all processes that the block has started, also if a signal came between two, and restores signal handlers,
    which torch's launcher replaces for good."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for process in multiprocessing.active_children():
            process.kill()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run_logged(main: Main, arguments: list[str], *, log: Path, num_threads: int) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run_rank(main, arguments, num_threads)


def run_rank(main: Main, arguments: list[str], num_threads: int) -> None:
    """One rank, as torch's launcher calls it (launch/ranks.py)."""
    import torch

    torch.set_num_threads(num_threads)  # OMP_NUM_THREADS comes too late for a fork: OpenMP is loaded
    try:
        _run(main, arguments)
    except SystemExit:
        time.sleep(LINGER_S)
        raise


def _run(main: Main, arguments: list[str]) -> None:
    """Exits with the code of a failure; returns after a success, which torch's launcher waits for."""
    _end_with_launcher()
    try:
        exit_code = main(arguments)
    except Exception:
        traceback.print_exc()  # torch's launcher would keep it in a file
        exit_code = 1
    if exit_code:
        sys.exit(exit_code)


def _end_with_launcher() -> None:
    """Even if it is killed; and Ctrl-C ends this process as it does the launcher, without a traceback of each rank."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell ignores it in what it runs in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()


def shell_exit_code(exit_code: int) -> int:
    """-n, multiprocessing's for signal n, becomes 128 + n."""
    return 128 - exit_code if exit_code < 0 else exit_code
