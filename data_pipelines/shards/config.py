"""Shards as the `data` section names them, and as training finds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.corpora.config import DataOptions


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where everything lies that training needs to know of its data."""

    tokenizer_dir: str
    sources: dict[str, ShardSource]


@dataclass(kw_only=True, slots=True)
class ShardSource:
    """Shards that `data_pipelines.tokenize` wrote."""

    train: str
    """Folder with a manifest.json: a path or any fsspec URI."""
    held_out: str | None = None
    """The same for validation; null leaves the source out of it."""


@dataclass(kw_only=True, slots=True)
class ShardsData(DataOptions):
    """Shards that are there already."""

    kind: Literal["shards"] = "shards"
    tokenizer: str = ""
    """Folder of the Hugging Face tokenizer that made the shards."""
    sources: dict[str, ShardSource] = field(default_factory=dict)
    """Source name -> its shards."""
