"""The bytes of a file, unpacked where they are gzip, bzip2, xz or Zstandard, with damage reported by file and byte."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any, TypeVar

from data_pipelines.documents.content.members import Members
from data_pipelines.documents.content.signatures import HEAD_BYTES, packed_as
from data_pipelines.documents.content.stored import StoredFile

PACKERS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "Zstandard"}
"""Suffix in lower case, without the dot -> what it was packed by."""

_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, OSError)
_PIECE_BYTES = 2**20
_BUFFER_BYTES = 2**17

T = TypeVar("T")


class UnpackedFile:
    """The content of a file. Whether it is packed is seen in its first bytes, not in its name.

    `with UnpackedFile(file) as content:`. Raises OSError where the store fails, ValueError with file and byte where
    packed content is damaged.
    """

    packer: str | None
    """"gzip", "bzip2", "xz", "Zstandard", or None for a file that is not packed."""
    head: bytes
    """The first HEAD_BYTES bytes of the content, or all."""

    def __init__(self, file: StoredFile):
        self.file = file

    def __enter__(self) -> UnpackedFile:
        with ExitStack() as stack:
            # Some of fsspec's own files read lines byte by byte.
            self._raw = stack.enter_context(io.BufferedReader(self.file.open(), _BUFFER_BYTES))  # type: ignore[arg-type]
            self.packer = packed_as(self._raw.read(HEAD_BYTES))
            self._stream = self._from_start()
            self.head = self.checked(lambda: self._stream.read(HEAD_BYTES), 0)
            self._stream = self._from_start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def place(self) -> str:
        """What its bytes are bytes of."""
        return "of its unpacked content" if self.packer else "of the file"

    def pieces(self) -> Iterator[bytes]:
        """All of the content."""
        return (piece for _, piece in self._read(lambda: self._stream.read1(_PIECE_BYTES)))

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(byte of the content at which it begins, line with its end), of lines that begin at start .. stop-1.

        start: 0 where the content is packed.
        """
        return self._read(lambda: self._stream.readline(), self._line_from(start), stop)

    @property
    def stream(self) -> IO[bytes]:
        """All of the content, for those who read it by themselves; what they meet is for `checked`."""
        return self._stream

    @property
    def stored(self) -> IO[bytes]:
        """The file as it is stored, to be read in any order; of a file that is not packed."""
        assert not self.packer, self.packer
        return self._raw

    def _from_start(self) -> Any:
        self._raw.seek(0)
        if self.packer == "gzip":
            return gzip.open(self._raw)
        return io.BufferedReader(Members(self._raw, self.packer), _BUFFER_BYTES) if self.packer else self._raw

    def _line_from(self, start: int) -> int:
        """Goes to the first line that begins at `start` or behind it; returns its byte."""
        if not start:
            return 0
        self._raw.seek(start - 1)
        while (skipped := self._raw.readline(_PIECE_BYTES)) and not skipped.endswith(b"\n"):
            pass  # a line may be longer than the piece
        return self._raw.tell()

    def _read(self, read: Callable[[], bytes], offset: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        while (stop is None or offset < stop) and (data := self.checked(read, offset)):
            yield offset, data
            offset += len(data)

    def checked(self, read: Callable[[], T], offset: int = 0) -> T:
        """What `read` gives. Raises ValueError where packed content is damaged; offset: of it, that was read whole."""
        try:
            return read()
        except _DAMAGE as err:
            if not self.packer or (isinstance(err, OSError) and err.errno is not None):
                raise  # the store's
            raise ValueError(
                f"{self.file}, byte {self._raw.tell():,}: damaged {self.packer} ({err}) after {offset:,} bytes of "
                "unpacked text; fetch the file again, or leave it out of the pattern"
            ) from err
