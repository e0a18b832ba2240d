"""Files -> pieces that can be read alone -> documents.

A piece is a whole file, or a part of one whose kind can be read from its middle: lines of a JSONL file that is not
packed, row groups of Parquet, record batches of an Arrow file. What a document is called does not depend on how its
file was cut:

    NAME:7      line 7 of JSONL, row 7 of a table, counted from 1
    NAME@4096   line of JSONL that begins at byte 4,096, in files of BY_BYTE_FROM bytes or more that are not packed. A
                number of the line would ask for all lines before it, which means to read such a file twice; a byte is
                there for nothing, and `tail -c +4097 FILE | head -1` shows the line at once.
    NAME        a text file
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.stored import Piece, StoredFile
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.content.unpack import UnpackedFile
from data_pipelines.documents.kinds import hub, kind_of
from data_pipelines.documents.kinds.jsonl import JSONL

BY_BYTE_FROM = 2**26
"""Bytes of a JSONL file that is not packed, from which on its documents are named by their place in it."""
_LOOKS = 32
"""Files that are looked at at a time: a look at a store is mostly waiting."""
_PROBLEMS = 10
"""Files that cannot be read which are named."""


def split(files: Mapping[str, StoredFile], options: ReadOptions, piece_bytes: int) -> list[Piece]:
    """All of `files` (name -> file) in pieces of about `piece_bytes`, in order. The beginning of each file is read, and
    its table of contents where it has one.

    Raises ValueError with the files that are of no kind that is read, so that nothing is begun that cannot end.
    """
    with ThreadPoolExecutor(_LOOKS) as threads:
        found = list(threads.map(partial(_pieces, options=options, piece_bytes=piece_bytes), files, files.values()))
    problems = [str(pieces) for pieces in found if isinstance(pieces, ValueError)]
    if problems:
        more = [f"and {len(problems) - _PROBLEMS:,} more files"] if len(problems) > _PROBLEMS else []
        raise ValueError("\n".join([*problems[:_PROBLEMS], *more]))
    return [piece for pieces in found if not isinstance(pieces, ValueError) for piece in pieces]


def read_piece(piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """Its documents. Raises ValueError for what is no text (UndecodableError where only a document is none and
    options.undecodable does not allow that), OSError where the store fails."""
    for document in _read(piece, options, tally):
        tally.add(document.text)
        yield document


def read_documents(
    file: StoredFile, name: str, options: ReadOptions | None = None, tally: Tally | None = None
) -> Iterator[Document]:
    """All documents of one file; those of JSONL are named by line, whatever its size. Raises what read_piece raises."""
    return read_piece(Piece(file, name, 0), options or ReadOptions(), tally or Tally())


def _read(piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    if hub.is_shard(piece.file):
        yield from hub.read_shard(piece, options, tally)
        return
    with UnpackedFile(piece.file) as content:
        yield from kind_of(content).read(content, piece, options, tally)


def _pieces(name: str, file: StoredFile, *, options: ReadOptions, piece_bytes: int) -> list[Piece] | ValueError:
    if hub.is_shard(file):
        return [Piece(file, name, 0)]
    try:
        with UnpackedFile(file) as content:
            kind, size = kind_of(content), file.num_bytes
            by_byte = kind is JSONL and not content.packer and size >= BY_BYTE_FROM
            if kind.cut is None or content.packer or size <= piece_bytes or (kind is JSONL and not by_byte):
                return [Piece(file, name, size, by_byte=by_byte)]
            cuts = kind.cut(content, piece_bytes)
            return [Piece(file, name, size // len(cuts), start, stop, by_byte) for start, stop in cuts]
    except ValueError as error:
        return error
