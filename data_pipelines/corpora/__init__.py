"""Corpora: sources of named documents, and what makes them ready to train on.

kinds (stdlib | files | shards) -> holdout -> tokenized -> preparation
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from data_pipelines.documents import Document

Corpus: TypeAlias = dict[str, Callable[[], Iterator[Document]]]
"""Source name -> function that reads its documents anew."""
