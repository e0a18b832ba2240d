"""Where prepared data lie: what training, validation and explanations open."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipelines.shards.datatrove import Source
from data_pipelines.shards.source import TokenSource

FORMATS: dict[str, type[TokenSource]] = {"datatrove": Source}
"""Readers of folders with a manifest. Shards that others wrote are read by the same one, once they have one: see
data_pipelines/formats."""


@dataclass(kw_only=True, slots=True)
class ShardSource:
    """Shards of one source. Raises ValueError for a format that is not known."""

    train: str
    """Folder of shards: a path or any fsspec URI."""
    held_out: str | None = None
    """The same for validation; null leaves the source out of it."""
    format: str = "datatrove"
    """How both are stored; `data_pipelines.tokenize` writes datatrove. The names are in FORMATS."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format}: unknown, allowed: {', '.join(FORMATS)}")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where everything lies that training needs to know of its data."""

    tokenizer_dir: str
    """Folder of the Hugging Face tokenizer that made the ids."""
    sources: dict[str, ShardSource]
    """Source name -> its shards."""
