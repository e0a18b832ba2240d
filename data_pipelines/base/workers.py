"""A function over many items in processes of their own, where one may be killed and Ctrl-C ends all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from threading import Thread
from typing import TypeVar

from data_pipelines.base.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")


def _nothing() -> None:
    """Most workers need no preparation."""


def run_each(
    job: Callable[[Item], Result],
    items: Mapping[str, Item],
    done: Callable[[str, Result], object],
    *,
    workers: int,
    start: Callable[[], None] = _nothing,
) -> None:
    """As run_in_workers, with no more processes than items; where one would do, in this one, and without `start`."""
    if workers == 1 or len(items) <= 1:
        for name, item in items.items():
            done(name, job(item))
    else:
        run_in_workers(job, items, done, workers=min(workers, len(items)), start=start)


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
    without an answer, and whatever a job raised. The processes have ended by then, as they have after Ctrl-C; they end
    too when this process is killed.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), partial(_begin, start))
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
            with _deaf_to_the_terminal():
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


def _begin(start: Callable[[], None]) -> None:
    end_with_parent()
    start()


def end_with_parent() -> None:
    """From now on, this process of multiprocessing's ends when its parent does, also if that is killed."""
    Thread(target=_await_end_of_parent, daemon=True).start()


def _await_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _deaf_to_the_terminal() -> Iterator[None]:
    """Processes started inside stay so: a terminal sends Ctrl-C, and SIGHUP when it is closed, to all of its processes,
    and this one is to end the others."""
    resource_tracker.ensure_running()  # started inside, it would take the mask off again
    signals = {signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
