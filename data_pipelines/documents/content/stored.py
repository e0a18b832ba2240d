"""A file in its store, and a part of one that can be read alone."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem


class StoredFile(NamedTuple):
    """A file in its file system. Names are never put into a URI and taken apart again: any legal one works."""

    fs: Any
    path: str

    def open(self) -> IO[bytes]:
        """Its bytes. Raises OSError."""
        return self.fs.open(self.path, "rb")

    @property
    def uri(self) -> str:
        """What tells it from every other file of every store."""
        return self.fs.unstrip_protocol(self.path)

    @property
    def num_bytes(self) -> int:
        """Its size; 0 where its store does not know it."""
        return self.fs.size(self.path) or 0

    def __str__(self) -> str:
        return self.path if isinstance(self.fs, LocalFileSystem) else self.uri


class Piece(NamedTuple):
    """A part of a file that is read alone. What `start` and `stop` count is its kind's to say."""

    file: StoredFile
    name: str
    """Of the file within its source; the names of its documents begin with it."""
    num_bytes: int
    """About as many as there are to be read, to balance work by: of the file as it is stored, packed or not."""
    start: int = 0
    stop: int | None = None
    """None: to the end of the file."""
    by_byte: bool = False
    """Documents are named by the byte at which they begin, not by their line: a piece does not know how many lines are
    before it. It depends on the file alone, never on where it was cut."""
