"""bzip2, xz and Zstandard files of several members, one after the other, as `cat a.bz2 b.bz2` and pzstd make them.

bz2.open and lzma.open ignore whatever follows a whole member and is none itself: all behind a damaged byte would be
lost without a word. So would the missing end of a file that is cut by zstandard's own reader. Here both are errors, as
they are in gzip.open. Zero bytes between and behind members are padding, except in
Zstandard, which knows none.
"""

from __future__ import annotations

import bz2
import io
import lzma
from functools import partial
from typing import Any

import zstandard

_INPUT_BYTES = 2**16


class _Frame:
    """A frame of Zstandard, with the interface of the decompressors of Python's standard library.

    Raises zstandard.ZstdError at what is damaged.
    """

    def __init__(self) -> None:
        unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)  # what zstd --ultra --long=31 asks for
        self._unpacker = unpacker.decompressobj()
        self._given = memoryview(b"")
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._unpacker.eof and not self._given

    @property
    def needs_input(self) -> bool:
        return not self._given

    def decompress(self, data: bytes, most: int) -> bytes | memoryview:
        if data:
            self._given = memoryview(self._unpacker.decompress(data))
            self.unused_data = self._unpacker.unused_data
        given, self._given = self._given[:most], self._given[most:]
        return given


_NEW = {"bzip2": bz2.BZ2Decompressor, "xz": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ), "Zstandard": _Frame}


class Members(io.RawIOBase):
    """The unpacked content of all members of `packed`, a binary file that is read from where it stands.

    packer: "bzip2", "xz" or "Zstandard". Reading raises OSError (without errno) at what is damaged or no member,
    EOFError at the end of a file that is cut.
    """

    def __init__(self, packed: io.BufferedReader, packer: str):
        self._packed = packed
        self._new = _NEW[packer]
        self._member: Any = self._new()
        self._padding = b"" if packer == "Zstandard" else b"\0"
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
        rest = self._member.unused_data.lstrip(self._padding)
        while not rest:
            if not (piece := self._packed.read(_INPUT_BYTES)):
                return False
            rest = piece.lstrip(self._padding)
        self._begin = self._packed.tell() - len(rest)
        self._member, self._given = self._new(), rest
        return True

    def _decompress(self, data: bytes, most: int) -> bytes | memoryview:
        try:
            return self._member.decompress(data, most)
        except (OSError, lzma.LZMAError, zstandard.ZstdError) as err:
            raise OSError(f"{err}{self._place()}") from err

    def _place(self) -> str:
        return f" in the member that begins at byte {self._begin:,}" if self._begin else ""

    def _input(self) -> bytes:
        given, self._given = self._given, b""
        if given or not self._member.needs_input:
            return given
        if not (piece := self._packed.read(_INPUT_BYTES)):
            raise EOFError(f"Compressed file ended before the end-of-stream marker was reached{self._place()}")
        return piece
