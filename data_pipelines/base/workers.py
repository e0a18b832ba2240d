"""A function over many items in processes of their own, where one may be killed and Ctrl-C ends all of them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

from data_pipelines.base.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_in_workers(
    job: Callable[[Item], Result],
    items: Mapping[str, Item],
    done: Callable[[str, Result], object],
    *,
    workers: int,
    start: Callable[[], None],
) -> None:
    """Runs `job` for each item and calls `done` here with its name and result, in the order in which they finish.

    items: name for people -> item. `start` runs first in each of the `workers` processes. They are spawned, not forked:
    `job`, `start`, items and results travel by pickle. Raises RunError with the names at work if a process ended
    without an answer, and whatever a job raised. The processes have ended by then, as they have after Ctrl-C.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start)
    try:
        _work_through(pool, job, items, done, workers)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _work_through(
    pool: ProcessPoolExecutor,
    job: Callable[[Item], Result],
    items: Mapping[str, Item],
    done: Callable[[str, Result], object],
    workers: int,
) -> None:
    waiting = iter(items.items())
    at_work: dict[Future[Result], str] = {}
    while True:
        # Never more than there are workers: if one dies, it was at work on one of these.
        while len(at_work) < workers and (following := next(waiting, None)):
            with _deaf_to_ctrl_c():
                at_work[pool.submit(job, following[1])] = following[0]
        if not at_work:
            return
        for future in wait(at_work, return_when=FIRST_COMPLETED).done:
            try:
                done(at_work[future], future.result())
            except BrokenProcessPool as err:
                names = " or ".join(at_work.values())
                raise RunError(
                    f"a worker process ended without an answer, at work on {names}: it was killed, perhaps because "
                    "memory ran out; if so, take fewer workers"
                ) from err
            del at_work[future]


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C: a terminal sends it to all, and this process ends the others."""
    resource_tracker.ensure_running()  # started inside, it would take the mask off again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
