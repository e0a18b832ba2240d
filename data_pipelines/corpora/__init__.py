"""Corpora: sources of named documents. A corpus is a dict of source name -> function that reads the documents anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias


class Document(NamedTuple):
    """A text and a name that identifies it within its source."""

    name: str
    text: str


Corpus: TypeAlias = dict[str, Callable[[], Iterator[Document]]]
