"""Arrow (IPC): a document a row, from the column `text_key`.

file     Feather too. Read from any record batch on, so rows are named by batch and row: NAME:3.17
stream   as Hugging Face `datasets` saves. Read from its start, rows are named by their number: NAME:517
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from data_pipelines.documents.content.decode import Policy
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.kind import Cut, Kind, Look
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.table import column_of, documents_of, rows_from
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.content.unpack import UnpackedFile
from data_pipelines.documents.kinds.parquet import damage_named

_CONTINUES = b"\xff\xff\xff\xff"
_END = _CONTINUES + bytes(4)
"""The last bytes of a stream that was written to its end."""
_LONGEST_SCHEMA = 2**28


def is_arrow_file(look: Look) -> bool:
    """Raises ValueError for what is packed as a whole: its table of contents is at its end."""
    if look.head[:8] != b"ARROW1\0\0":
        return False
    if look.packer:
        raise ValueError(f"looks like Arrow inside of {look.packer}, which cannot be read; unpack it first")
    return True


def is_arrow_stream(look: Look) -> bool:
    """Known by the length of its schema, which follows the mark of every message."""
    return look.head[:4] == _CONTINUES and 0 < int.from_bytes(look.head[4:8], "little", signed=True) < _LONGEST_SCHEMA


def read_arrow_file(content: UnpackedFile, piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """start, stop of the piece: record batches. Raises ValueError for what is damaged or has no such column."""
    policy = Policy(options, tally)
    with damage_named(content, "Arrow"):
        schema = pa.ipc.open_file(content.stored).schema
        way = column_of(schema, options.text_key, str(piece.file))
        reader = pa.ipc.open_file(content.stored, options=_only(schema, way))
        for number in range(piece.start, reader.num_record_batches if piece.stop is None else piece.stop):
            rows = rows_from(1, f"{number + 1}.")
            yield from documents_of([reader.get_batch(number)], way, piece, policy, rows=rows)


def read_arrow_stream(content: UnpackedFile, piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """Raises ValueError for what is damaged, cut or joined, and where there is no such column."""
    with damage_named(content, "Arrow"):
        source = _Stream(content)
        reader = pa.ipc.open_stream(source)
        way = column_of(reader.schema, options.text_key, str(piece.file))
        yield from documents_of(reader, way, piece, Policy(options, tally), rows=rows_from(1))
    if source.last != _END:
        raise ValueError(
            f"{piece.file}, byte {source.offset:,}: the stream of Arrow is cut, it has no end mark; fetch or write the "
            "file again"
        )
    if source.read(1):
        raise ValueError(
            f"{piece.file}, byte {source.offset - 1:,}: something follows the end of the stream of Arrow, as where "
            "files were joined; write each to a file of its own"
        )


def cut_arrow_file(content: UnpackedFile, piece_bytes: int) -> list[Cut]:
    """As many record batches as `piece_bytes` hold, were all of one size, at least one."""
    with damage_named(content, "Arrow"):
        batches = pa.ipc.open_file(content.stored).num_record_batches
    each = max(1, batches * piece_bytes // max(1, content.file.num_bytes))
    return [(start, min(start + each, batches)) for start in range(0, batches, each)]


def _only(schema: pa.Schema, way: tuple[str, ...]) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(way[0])])


class _Stream:
    """What pyarrow reads a stream from: it takes an end without a mark for the end of the stream."""

    def __init__(self, content: UnpackedFile):
        self._content = content
        self._stream: IO[bytes] = content.stream
        self.offset = 0
        self.last = b""
        self.closed = False

    def read(self, size: int) -> bytes:
        data = self._content.checked(lambda: self._stream.read(size), self.offset)
        self.offset += len(data)
        self.last = (self.last + data[-len(_END) :])[-len(_END) :]
        return data

    def close(self) -> None:
        self.closed = True


ARROW_FILE = Kind("Arrow", is_arrow_file, read_arrow_file, cut_arrow_file)
ARROW_STREAM = Kind("a stream of Arrow", is_arrow_stream, read_arrow_stream)
