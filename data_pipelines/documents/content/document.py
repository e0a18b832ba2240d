"""What a source of text gives."""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """A text and a name that identifies it within its source."""

    name: str
    text: str
