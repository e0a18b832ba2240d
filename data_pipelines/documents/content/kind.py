"""What a kind of source is to those who read files: how it is known, how it is read, where it may be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.content.unpack import UnpackedFile


class Look(NamedTuple):
    """What is seen of a file without reading it."""

    head: bytes
    """The first HEAD_BYTES bytes of its content once it is unpacked, or all."""
    suffixes: tuple[str, ...]
    """Of its name, in lower case, without their dots and without .gz and the like; the first is ""."""
    packer: str | None
    """What it is packed by."""

    @property
    def suffix(self) -> str:
        """The last of them."""
        return self.suffixes[-1]


Cut: TypeAlias = tuple[int, int | None]
"""start, stop of a piece."""


class Kind(NamedTuple):
    """A kind of source. A new one is a file in kinds/ and a line in kinds/__init__.py."""

    name: str
    is_it: Callable[[Look], bool]
    """Whether a file is of this kind. Raises ValueError, which says why and what to do, for what is of it in a form
    that cannot be read."""
    read: Callable[[UnpackedFile, Piece, ReadOptions, Tally], Iterator[Document]]
    """The documents of a piece. The file stands at its beginning."""
    cut: Callable[[UnpackedFile, int], list[Cut]] | None = None
    """(file, bytes of a piece) -> its pieces, in order; None for a kind that is always read whole."""
