"""bzip2 and xz files of several members, one after the other, as `cat a.bz2 b.bz2` makes them.

bz2.open and lzma.open ignore whatever follows a whole member and is none itself: all behind a damaged byte would be
lost without a word. Here it is an error, as it is in gzip.open. Zero bytes between and behind members are padding.
"""

from __future__ import annotations

import bz2
import io
import lzma
from functools import partial
from typing import Any

_NEW = {"bzip2": bz2.BZ2Decompressor, "xz": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ)}


class Members(io.RawIOBase):
    """The unpacked content of all members of `packed`, a binary file that is read from where it stands.

    packer: "bzip2" or "xz". Reading raises OSError (without errno) at what is damaged or no member, EOFError at
    the end of a file that is cut.
    """

    def __init__(self, packed: io.BufferedReader, packer: str):
        self._packed = packed
        self._new = _NEW[packer]
        self._member: Any = self._new()
        self._begin = 0
        self._given = b""  # what is behind the end of the last member, read already

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._member.eof or self._begin_next():
            if data := self._decompress(self._input(), len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _begin_next(self) -> bool:
        rest = self._member.unused_data.lstrip(b"\0")
        while not rest:
            if not (piece := self._packed.read(io.DEFAULT_BUFFER_SIZE)):
                return False
            rest = piece.lstrip(b"\0")
        self._begin = self._packed.tell() - len(rest)
        self._member, self._given = self._new(), rest
        return True

    def _decompress(self, data: bytes, most: int) -> bytes:
        try:
            return self._member.decompress(data, most)
        except (OSError, lzma.LZMAError) as err:
            raise OSError(f"{err}{self._place()}") from err

    def _place(self) -> str:
        return f" in the member that begins at byte {self._begin:,}" if self._begin else ""

    def _input(self) -> bytes:
        given, self._given = self._given, b""
        if given or not self._member.needs_input:
            return given
        if not (piece := self._packed.read(io.DEFAULT_BUFFER_SIZE)):
            raise EOFError(f"Compressed file ended before the end-of-stream marker was reached{self._place()}")
        return piece
