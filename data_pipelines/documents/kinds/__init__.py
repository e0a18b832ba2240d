"""The kinds of sources of documents: the one place where they are listed. The first that knows a file reads it."""

from __future__ import annotations

from pathlib import PurePosixPath

from data_pipelines.documents.content.kind import Kind, Look
from data_pipelines.documents.content.signatures import known_by_content
from data_pipelines.documents.content.unpack import PACKERS, UnpackedFile
from data_pipelines.documents.kinds.arrow import ARROW_FILE, ARROW_STREAM
from data_pipelines.documents.kinds.jsonl import JSONL
from data_pipelines.documents.kinds.parquet import PARQUET
from data_pipelines.documents.kinds.tar import TAR
from data_pipelines.documents.kinds.text import TEXT

BY_SIGNATURE: tuple[Kind, ...] = (PARQUET, ARROW_FILE, ARROW_STREAM, TAR)
"""Known by their first bytes."""
BY_SYNTAX: tuple[Kind, ...] = (JSONL, TEXT)
"""Text, and what is not known to be anything else."""


def kind_of(content: UnpackedFile) -> Kind:
    """Raises ValueError, which names the file, for what is of no kind that is read."""
    look = _look(content)
    try:
        for kind in BY_SIGNATURE:
            if kind.is_it(look):
                return kind
        if problem := known_by_content(look.head):
            raise ValueError(problem)
        return next(kind for kind in BY_SYNTAX if kind.is_it(look))
    except ValueError as error:
        raise ValueError(f"{content.file} {error}") from error


def _look(content: UnpackedFile) -> Look:
    suffixes = ["", *(suffix.removeprefix(".").lower() for suffix in PurePosixPath(content.file.path).suffixes)]
    if packer := PACKERS.get(suffixes[-1]):
        if content.packer != packer:
            raise ValueError(
                f"{content.file} is {packer} by its name, not by its first bytes; fetch it again or rename it"
            )
        suffixes.pop()
    return Look(content.head, tuple(suffixes), content.packer)
