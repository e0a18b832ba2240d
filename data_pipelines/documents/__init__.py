"""Files -> documents: find (which files, local) -> unpack (members) -> text (UTF-8 or refused) -> Document."""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """A text and a name that identifies it within its source."""

    name: str
    text: str
