"""Reads what will be asked for next, in threads of its own, while a step computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

LOOK_EVERY_S = 1.0
"""How often one who waits looks whether anybody is at work for him."""


class ReadAhead(Generic[K, T]):
    """`readers` threads call `read`, each key once, in the order in which keys were expected.

    An error of `read` is raised where its result is asked for, not before: what nobody asks for has not failed.
    """

    def __init__(self, read: Callable[[K], T], *, readers: int = 1) -> None:
        self._read = read
        self._num_readers = readers
        self._todo: SimpleQueue[_Job[K, T]] = SimpleQueue()
        self._threads: list[Thread] = []
        self._expected: dict[K, _Job[K, T]] = {}

    def get(self, key: K, *, then: Sequence[K]) -> T:
        """What is read of `key`; meanwhile `then` is read, in the expectation that it is asked for next: all, once
        half of it has been asked for.

        What was expected before and is not in `then` is dropped. Raises what `read` raised for `key`, and RuntimeError
        where no reader is left to read it.
        """
        job = self._expected.pop(key, None) or self._submit(key)
        for other in self._expected.keys() - set(then):
            self._expected.pop(other).is_wanted = False
        # Not one for each that is taken: a reader that begins takes the interpreter from the thread that trains.
        if len(self._expected) <= len(then) // 2:
            for other in then:
                if other not in self._expected:
                    self._expected[other] = self._submit(other)
        while not job.is_done.wait(LOOK_EVERY_S):
            if not all(thread.is_alive() for thread in self._threads) and not job.is_done.is_set():
                # a fork takes no threads along, and one that is gone would be waited for without end
                raise RuntimeError(f"a thread that reads ahead has died before it had read {key}; start the run again")
        return job.result()

    def _submit(self, key: K) -> _Job[K, T]:
        while (
            len(self._threads) < self._num_readers
        ):  # not before there is work: those who only build a loader read none
            # daemons: one that hangs in a file system must not keep a process that wants to end
            thread = Thread(target=_work, args=(self._todo, self._read), name="read ahead", daemon=True)
            thread.start()
            self._threads.append(thread)
        job: _Job[K, T] = _Job(key)
        self._todo.put(job)
        return job


class _Job(Generic[K, T]):
    def __init__(self, key: K) -> None:
        self.key = key
        self.is_wanted = True
        self.is_done = Event()
        self._value: list[T] = []
        self._error: BaseException | None = None

    def run(self, read: Callable[[K], T]) -> None:
        try:
            if self.is_wanted:
                self._value.append(read(self.key))
        except BaseException as error:  # whatever it is, it is raised where the result is asked for
            self._error = error
        finally:
            self.is_done.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]


def _work(todo: SimpleQueue[_Job[K, T]], read: Callable[[K], T]) -> None:
    """Without a reference to the ReadAhead: a thread would keep it, and all that it has read, in memory."""
    while True:
        todo.get().run(read)
