"""The bytes of a file, unpacked where they are gzip, bzip2 or xz, with damage reported by file and byte."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from data_pipelines.documents.find import StoredFile
from data_pipelines.documents.members import Members
from data_pipelines.documents.signatures import HEAD_BYTES, packed_as

PACKERS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz"}
"""Suffix in lower case, without the dot -> what it was packed by."""

_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, OSError)
_PIECE_BYTES = 2**20


class UnpackedFile:
    """The content of a file. Whether it is packed is seen in its first bytes, not in its name.

    `with UnpackedFile(file) as content:`. Raises OSError where the store fails, ValueError with file and byte where
    packed content is damaged.
    """

    packer: str | None
    """"gzip", "bzip2", "xz", or None for a file that is not packed."""
    head: bytes
    """The first HEAD_BYTES bytes of the content, or all."""

    def __init__(self, file: StoredFile):
        self._file = file

    def __enter__(self) -> UnpackedFile:
        with ExitStack() as stack:
            # Some of fsspec's own files read lines byte by byte.
            self._raw = stack.enter_context(io.BufferedReader(self._file.open()))  # type: ignore[arg-type]
            self.packer = packed_as(self._raw.read(HEAD_BYTES))
            self._stream = self._from_start()
            self.head = self._checked(lambda: self._stream.read(HEAD_BYTES), 0)
            self._stream = self._from_start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pieces(self) -> Iterator[bytes]:
        """All of the content."""
        return (piece for _, piece in self._read(lambda: self._stream.read1(_PIECE_BYTES)))

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(byte of the content at which it begins, line with its end)."""
        return self._read(lambda: self._stream.readline())

    def _from_start(self) -> Any:
        self._raw.seek(0)
        if self.packer == "gzip":
            return gzip.open(self._raw)
        return io.BufferedReader(Members(self._raw, self.packer)) if self.packer else self._raw

    def _read(self, read: Callable[[], bytes]) -> Iterator[tuple[int, bytes]]:
        offset = 0
        while data := self._checked(read, offset):
            yield offset, data
            offset += len(data)

    def _checked(self, read: Callable[[], Any], offset: int) -> Any:
        try:
            return read()
        except _DAMAGE as err:
            if not self.packer or (isinstance(err, OSError) and err.errno is not None):
                raise  # the store's
            raise ValueError(
                f"{self._file}, byte {self._raw.tell():,}: damaged {self.packer} ({err}) after {offset:,} bytes of "
                "unpacked text; fetch the file again, or leave it out of the pattern"
            ) from err
