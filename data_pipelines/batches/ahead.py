"""Reads what will be asked for next, in a thread of its own, while a step computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """One thread calls `read`, and no other: readers of files need not be shared between threads.

    An error of `read` is raised where its result is asked for, not before: what nobody asks for has not failed.
    """

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read ahead")
        self._expected: dict[int, Future[T]] = {}

    def get(self, numbers: Sequence[int], *, then: Sequence[int]) -> list[T]:
        """What is read of `numbers`; afterwards `then` is read, in the expectation that it is asked for next."""
        wanted = [self._expected.pop(number, None) or self._thread.submit(self._read, number) for number in numbers]
        for future in self._expected.values():
            future.cancel()
        self._expected = {number: self._thread.submit(self._read, number) for number in then}
        return [future.result() for future in wanted]
