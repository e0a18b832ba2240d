"""counted://PATH: local files behind a store that counts what is read of them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class CountedStore(LocalFileSystem):
    """Every process that reads through it counts its own."""

    protocol = "counted"
    reads: ClassVar[list[tuple[str, int]]] = []
    """(name of the file, bytes) of each."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("counted://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        data = super().cat_file(path, start, end, **kwargs)
        assert isinstance(data, bytes), type(data)
        self.reads.append((PurePosixPath(path).name, len(data)))
        return data


def read_bytes() -> int:
    """Since the last call."""
    total = sum(count for _, count in CountedStore.reads)
    CountedStore.reads.clear()
    return total


fsspec.register_implementation("counted", CountedStore)
