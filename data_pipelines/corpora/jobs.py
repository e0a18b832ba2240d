"""Files -> pieces -> jobs, each of which writes its shards alone: the same shards by however many processes. Pure.

A job is a run of pieces of about `shard_bytes`: a part of a large file, or many small files. It writes one shard, or
several where its text unpacks to more than that. Neither depends on who does it, or on what was done before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import tokenizers
import xxhash

from data_pipelines.documents.content.stored import Piece
from data_pipelines.documents.content.tally import ReadOptions
from data_pipelines.tokenizer.encoder import TextEncoder

PIECES_IN_SHARD = 8
"""Files are cut finer than shards, for progress that moves."""


class Job(NamedTuple):
    """What one process does in one go."""

    shard: str
    """Name of its first shard; others are called shard-1, shard-2, ..."""
    pieces: tuple[Piece, ...]
    made_from: str
    """Hash of all that determines its shards."""

    @property
    def num_bytes(self) -> int:
        """To be read, as they are stored."""
        return sum(piece.num_bytes for piece in self.pieces)

    def __str__(self) -> str:
        first, *others = self.pieces
        more = f" and {len(others):,} more pieces" if others else ""
        return f"{first.file}{f' from {first.start:,}' if first.start else ''}{more}"


def jobs_of(pieces: Iterable[Piece], encoder: TextEncoder, options: ReadOptions, shard_bytes: int) -> list[Job]:
    """In the order of the pieces. Raises OSError where a store does not say what a file is."""
    settings = (options.text_key, options.undecodable, encoder.hash, str(encoder.eos_id), encoder.backend)
    common = "\0".join((*settings, str(shard_bytes), tokenizers.__version__))
    return [
        Job(f"{number:05}", tuple(group), _made_from(group, common))
        for number, group in enumerate(_groups(pieces, shard_bytes))
    ]


def _groups(pieces: Iterable[Piece], shard_bytes: int) -> Iterator[list[Piece]]:
    """As many pieces as fit, at least one."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + piece.num_bytes > shard_bytes:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.num_bytes
    if group:
        yield group


def _made_from(pieces: Iterable[Piece], common: str) -> str:
    """Of each file its place, size and time, or its store's tag."""
    state = xxhash.xxh3_128(common.encode())
    for piece in pieces:
        part = (piece.name, piece.file.uri, piece.file.fs.ukey(piece.file.path), str(piece.start), str(piece.stop))
        state.update("\0".join(part).encode(errors="surrogateescape"))
    return state.hexdigest()
