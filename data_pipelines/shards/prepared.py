"""Where prepared data lie: what training, validation and explanations open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class ShardSource:
    """Shards that `data_pipelines.tokenize` wrote."""

    train: str
    """Folder with a manifest.json: a path or any fsspec URI."""
    held_out: str | None = None
    """The same for validation; null leaves the source out of it."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where everything lies that training needs to know of its data."""

    tokenizer_dir: str
    sources: dict[str, ShardSource]
