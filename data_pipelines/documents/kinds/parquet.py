"""Parquet: a document a row, from the column `text_key`. A row group is the least that a piece can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.documents.content.decode import Policy
from data_pipelines.documents.content.document import Document
from data_pipelines.documents.content.kind import Cut, Kind, Look
from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.table import column_of, documents_of, rows_from
from data_pipelines.documents.content.tally import ReadOptions, Tally, UndecodableError
from data_pipelines.documents.content.unpack import UnpackedFile

_ROWS = 256
"""Read at a time: a row group may be a gigabyte, its pages come one after the other."""
_BUFFER_BYTES = 2**20


def is_parquet(look: Look) -> bool:
    """Raises ValueError for what is packed as a whole: its table of contents is at its end."""
    if look.head[:4] == b"PARE":
        raise ValueError("looks like encrypted Parquet, which is not read; decrypt it first")
    if look.head[:4] != b"PAR1":
        return False
    if look.packer:
        raise ValueError(f"looks like Parquet inside of {look.packer}, which cannot be read; unpack it first")
    return True


def read_parquet(content: UnpackedFile, piece: Piece, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    """start, stop of the piece: row groups. Raises ValueError for what is damaged and where the column is missing."""
    policy = Policy(options, tally)
    with damage_named(content, "Parquet"):
        table = _open(content)
        groups = range(piece.start, table.num_row_groups if piece.stop is None else piece.stop)
        way = column_of(table.schema_arrow, options.text_key, str(piece.file))
        first = 1 + sum(table.metadata.row_group(group).num_rows for group in range(groups.start))
        batches = table.iter_batches(_ROWS, row_groups=list(groups), columns=[".".join(way)])
        yield from documents_of(batches, way, piece, policy, rows=rows_from(first))


def cut_parquet(content: UnpackedFile, piece_bytes: int) -> list[Cut]:
    """Row groups that follow each other, as many as `piece_bytes` hold, at least one."""
    with damage_named(content, "Parquet"):
        metadata = _open(content).metadata
        unpacked = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    # pyarrow ends the process where the sizes of single columns are damaged
    sizes = [content.file.num_bytes * each / max(1, sum(unpacked)) for each in unpacked]
    cuts, start, size = list[Cut](), 0, 0.0
    for group, more in enumerate(sizes):
        if size and size + more > piece_bytes:
            cuts.append((start, group))
            start, size = group, 0
        size += more
    return [*cuts, (start, len(sizes))]


@contextmanager
def damage_named(content: UnpackedFile, what: str) -> Iterator[None]:
    """Makes a ValueError with the file of what pyarrow raises where it is damaged."""
    try:
        yield
    except UndecodableError:
        raise
    except MemoryError as error:
        raise ValueError(
            f"{content.file}: damaged {what} (it asks for more memory than there is); fetch the file again, or leave "
            "it out of the pattern"
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the store's
        raise ValueError(
            f"{content.file}: damaged {what} ({error}); fetch the file again, or leave it out of the pattern"
        ) from error


def _open(content: UnpackedFile) -> pq.ParquetFile:
    return pq.ParquetFile(content.stored, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)


PARQUET = Kind("Parquet", is_parquet, read_parquet, cut_parquet)
