"""What is read of files, counted: those behind counted://PATH, which are local ones, and all that Python opens."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class CountedStore(LocalFileSystem):
    """A store for fsspec. Every process that reads through it counts its own."""

    protocol = "counted"
    reads: ClassVar[list[tuple[str, int]]] = []
    """(path, bytes) of each."""
    listings: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("counted://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        data = super().cat_file(path, start, end, **kwargs)
        assert isinstance(data, bytes), type(data)
        self.reads.append((path, len(data)))
        return data

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> list[Any]:
        self.listings.append(path)
        return super().ls(path, detail=detail, **kwargs)


def read_bytes() -> int:
    """Since the last call."""
    total = sum(count for _, count in CountedStore.reads)
    CountedStore.reads.clear()
    return total


def count_opens() -> Counter[str]:
    """How often Python opens each path, from now on to the end of the process."""
    _watching.append(found := Counter[str]())
    return found


_watching: list[Counter[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        for found in _watching:
            found[str(arguments[0])] += 1


fsspec.register_implementation("counted", CountedStore)
sys.addaudithook(_hear)  # which nothing removes
