"""data_pipelines/batches/ahead.py: what comes next is there when it is asked for, and errors come when they are due."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

from data_pipelines.batches.ahead import ReadAhead


def test_what_is_expected_is_read_before_it_is_asked_for_and_nothing_twice() -> None:
    read: list[int] = []
    is_read = threading.Event()

    def square(number: int) -> int:
        read.append(number)
        if number == 3:
            is_read.set()
        return number**2

    ahead = ReadAhead(square)
    assert ahead.get(1, then=[2, 3]) == 1
    assert is_read.wait(10)
    assert ahead.get(2, then=[3, 4]) == 4
    assert ahead.get(3, then=[4]) == 9
    assert ahead.get(4, then=[]) == 16
    assert read == [1, 2, 3, 4]


def test_what_was_not_expected_is_read_all_the_same() -> None:
    def negated(number: int) -> int:
        return -number

    ahead = ReadAhead(negated)
    ahead.get(1, then=[2, 3])
    assert ahead.get(7, then=[8]) == -7
    assert ahead.get(3, then=[]) == -3
    assert ahead.get(8, then=[]) == -8


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise OSError("shard 2 is damaged")
        return number

    ahead = ReadAhead(read)
    assert ahead.get(1, then=[2]) == 1
    assert ahead.get(3, then=[2]) == 3  # 2 was never asked for
    with pytest.raises(OSError, match="shard 2 is damaged"):
        ahead.get(2, then=[])


@pytest.mark.parametrize("readers", [1, 3])
def test_as_many_threads_read_as_were_asked_for(readers: int) -> None:
    together = threading.Barrier(readers)

    def read(number: int) -> int:
        together.wait(10)  # breaks where fewer come
        return threading.get_ident()

    ahead = ReadAhead(read, readers=readers)
    threads = {ahead.get(number, then=range(number + 1, 6)) for number in range(6)}
    assert len(threads) <= readers
    assert threading.get_ident() not in threads


def test_a_reader_that_is_gone_is_found() -> None:
    """A forked process has none of the threads."""
    ahead = ReadAhead(lambda number: number)
    assert ahead.get(1, then=[]) == 1
    child = os.fork()
    if not child:
        try:
            ahead.get(2, then=[])
        except RuntimeError as error:
            os._exit(7 if "has died before it had read 2" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_what_was_handed_over_is_kept_no_longer() -> None:
    class Big:
        pass

    ahead = ReadAhead(lambda number: Big())
    seen = weakref.ref(ahead.get(1, then=[2]))
    ahead.get(2, then=[3])
    gc.collect()
    assert seen() is None
