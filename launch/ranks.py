"""Ranks of this machine: torchrun's own launcher, with processes forked from one that is warm.

Importing torch and the engine takes a core 9 s, for each of the ranks and again for the export. Here one process, the
server, does it once, from the first second on, while configuration and data are seen to; a rank is forked from it in
milliseconds. The launcher is used as a function rather than as a process: that keeps the exit code of the rank that
failed, and its message is not buried under the launcher's.

Being forked, ranks are not children of the launcher. They end with it, however it ends, because they watch it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NoReturn

from train.errors import CONFIG_EXIT

if TYPE_CHECKING:  # imports torch, which takes seconds: not before the first line is printed
    from torch.distributed.launcher.api import LaunchConfig

RESUME_ADVICE = "The same command goes on from the last complete checkpoint."

WARM = multiprocessing.get_context("forkserver")
"""Makes processes that have imported the engine."""
WARM.set_forkserver_preload(["train.build", "train.export"])

ENVIRONMENT = {
    # glibc gives large tensors back to the system when they are freed, and the next ones fault their pages in again;
    # huge pages fault in once where small ones do 512 times.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # Else torch asks the CUDA driver whether there is a GPU, and a fork of a process that did cannot use it.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Of the server, and so of what it forks, unless the user has set it."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Those that the launcher hands on to its ranks."""
LINGER_S = 0.5
"""How long a failed rank stays. The launcher looks every 0.1 s and blames any rank that has ended by then: where the
end of one makes the others fail, that would be any of them."""

Main = Callable[[list[str]], int]
"""A program as a function: its arguments -> its exit code."""


class Stopped(Exception):
    """A phase could not finish: what the user should know, and the exit code."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
    return _shell_exit_code(process.exitcode)


def start_warm(main: Main, arguments: list[str], *, log: Path, num_threads: int) -> ForkServerProcess:
    """Starts `main(arguments)` in a process of its own, which ends with this one; what it prints goes to `log`."""
    process = WARM.Process(target=_run_logged, args=(main, arguments), kwargs={"log": log, "num_threads": num_threads})
    process.start()
    return process


def launch_ranks(main: Main, arguments: list[str], *, num_ranks: int, run_dir: Path) -> None:
    """`main(arguments)` on `num_ranks` ranks, to its end. Raises Stopped when a rank fails or a signal comes in.

    A rank computes with OMP_NUM_THREADS threads; the default is its share of the cores, as with all cores for all
    ranks threads wait for each other.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    num_threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // num_ranks))
    launch = elastic_launch(_launch_config(num_ranks, run_dir), entrypoint=_run_rank)
    try:
        with nothing_left_behind(), _no_log():
            launch(main, arguments, num_threads)
    except ChildFailedError as err:
        rank, failure = err.get_first_failure()
        _stop_for_failure(rank, failure.exitcode, run_dir)
    except SignalException as err:
        name = signal.Signals(err.sigval).name
        raise Stopped(f"stopped by {name}. {RESUME_ADVICE}", exit_code=128 + err.sigval) from err


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No process, even if a signal came between two starts, and no handler of torch's, which would outlive its use."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for process in multiprocessing.active_children():
            process.kill()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _no_log() -> Iterator[None]:
    """torch's launcher logs what Stopped says, at length."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _run_logged(main: Main, arguments: list[str], *, log: Path, num_threads: int) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _run_rank(main, arguments, num_threads)


def _run_rank(main: Main, arguments: list[str], num_threads: int) -> None:
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
    Thread(target=_await_end_of_launcher, daemon=True).start()


def _await_end_of_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGKILL)


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
        signals_to_handle=_signals_to_handle(),
    )


def _signals_to_handle() -> str:
    """Not what is ignored on purpose: SIGHUP under nohup, SIGINT in the background of a shell script."""
    return ",".join(number.name for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


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
    raise Stopped("\n".join(lines), exit_code=_shell_exit_code(exit_code))


def _shell_exit_code(exit_code: int) -> int:
    """-n, multiprocessing's for signal n, becomes 128 + n."""
    return 128 - exit_code if exit_code < 0 else exit_code


def _last_words(rank: int, run_dir: Path, *, num_lines: int = 15) -> list[str]:
    """The end of what a rank wrote in its latest start, and where the rest is."""
    logs = sorted(run_dir.glob(f"logs/*/attempt_0/{rank}/stderr.log"), key=lambda log: log.stat().st_mtime)
    words = logs[-1].read_text(errors="replace").splitlines()[-num_lines:] if logs else []
    return [f"The end of {logs[-1]}:", *(f"  | {line}" for line in words)] if words else []
