"""Which documents of a source are held out, and which train the tokenizer. Pure.

A hash of its name gives each document a rank, the same in every run. The low end of the ranks is held out for
validation, all others train, the high end of those also trains the tokenizer:

    rank  0 ............................................... 2^64
          | held out |           train                        |
                                      | tokenizer's sample    |
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from data_pipelines.documents import Document
from data_pipelines.plan.prp import derive_key


class Split(NamedTuple):
    """How the documents of a source are used."""

    num_chars: int
    """Characters of all its documents."""
    held_out: frozenset[int]
    """Ranks."""
    sample_from: int
    """The lowest rank of the tokenizer's sample."""

    def is_held_out(self, document: Document) -> bool:
        """For validation only."""
        return rank_of(document) in self.held_out

    def is_sampled(self, document: Document) -> bool:
        """The tokenizer is trained on it."""
        return rank_of(document) >= self.sample_from and not self.is_held_out(document)


def rank_of(document: Document) -> int:
    """0 .. 2^64 - 1, by the hash of its name."""
    return derive_key(0, "document", document.name)


def split_documents(source: str, documents: Iterable[Document], *, held_out: float, sample_chars: int) -> Split:
    """held_out: share of the source's characters; sample_chars: length of the tokenizer's sample.

    Raises ValueError if there are too few documents to train on some and hold out others.
    """
    sizes = {rank_of(document): len(document.text) for document in documents if document.text}
    if len(sizes) < (2 if held_out else 1):
        raise ValueError(
            f"source {source!r} has {len(sizes)} non-empty document(s), too few to train on some and hold out others; "
            "give it more files or a JSONL file with a document a line, or set data.held_out=0"
        )
    num_chars = sum(sizes.values())
    kept = _hold_out(sizes, held_out * num_chars) if held_out else frozenset()
    training = sorted(sizes.keys() - kept, reverse=True)
    lengths = accumulate(sizes[rank] for rank in training)
    enough = (rank for rank, length in zip(training, lengths, strict=True) if length >= sample_chars)
    return Split(num_chars, kept, next(enough, 0))


def _hold_out(sizes: dict[int, int], room: float) -> frozenset[int]:
    """The lowest ranks that fit into `room` characters.

    A document larger than all of it stays in training; where every document is, the smallest is held out.
    """
    fitting = sorted(rank for rank, size in sizes.items() if size <= room)
    if not fitting:
        return frozenset([min(sizes, key=lambda rank: (sizes[rank], rank))])
    lengths = accumulate(sizes[rank] for rank in fitting)
    return frozenset(rank for rank, length in zip(fitting, lengths, strict=True) if length <= room)
