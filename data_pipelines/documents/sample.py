"""Texts from all over a source, as many as are wanted."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines.documents.content.tally import ReadOptions, Tally, Undecodable
from data_pipelines.documents.find import find_files
from data_pipelines.documents.pieces import read_piece, split

VERIFIED_CHARS = 2**22
"""Of a source that a tokenizer is verified on."""
_PIECE_BYTES = 2**26


def sample_texts(pattern: str, text_key: str, undecodable: Undecodable, most_chars: int) -> Iterator[str]:
    """The first documents of each piece of the files, from each the same number of characters, about `most_chars` in
    all. Raises ValueError for files that cannot be read, OSError where a store fails."""
    options = ReadOptions(text_key, undecodable)
    pieces = split(find_files(pattern, setting="--input"), options, _PIECE_BYTES)
    left = most_chars
    for number, piece in enumerate(pieces):
        share, taken = max(left // (len(pieces) - number), most_chars // len(pieces)), 0
        for document in read_piece(piece, options, Tally()):
            if taken >= share:
                break
            yield document.text
            taken += len(document.text)
        left = max(0, left - taken)  # what a small piece lacks, the next ones may give
