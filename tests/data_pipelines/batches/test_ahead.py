"""data_pipelines/batches/ahead.py: what comes next is there when it is asked for, and errors come when they are due."""

from __future__ import annotations

import threading

import pytest

from data_pipelines.batches.ahead import ReadAhead


def test_what_is_expected_is_read_before_it_is_asked_for() -> None:
    read: list[int] = []
    is_read = threading.Event()

    def square(number: int) -> int:
        read.append(number)
        if number == 3:
            is_read.set()
        return number**2

    ahead = ReadAhead(square)
    assert ahead.get([1], then=[2, 3]) == [1]
    assert is_read.wait(10)
    assert ahead.get([2, 3], then=[]) == [4, 9]
    assert read == [1, 2, 3]  # each once


def test_what_was_not_expected_is_read_all_the_same() -> None:
    ahead = ReadAhead(lambda number: -number)
    ahead.get([1], then=[2, 3])
    assert ahead.get([7, 3], then=[8]) == [-7, -3]
    assert ahead.get([8], then=[]) == [-8]


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise OSError("shard 2 is damaged")
        return number

    ahead = ReadAhead(read)
    assert ahead.get([1], then=[2]) == [1]
    assert ahead.get([3], then=[2]) == [3]  # 2 was never asked for
    with pytest.raises(OSError, match="shard 2 is damaged"):
        ahead.get([2], then=[])


def test_one_thread_reads() -> None:
    ahead = ReadAhead(lambda number: threading.get_ident())
    threads = {*ahead.get([1, 2], then=[3]), *ahead.get([3, 4], then=[])}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
