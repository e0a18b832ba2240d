"""Shards that are there already, as a kind of the `data` section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.corpora.config import DataOptions
from data_pipelines.shards.prepared import ShardSource


@dataclass(kw_only=True, slots=True)
class ShardsData(DataOptions):
    """Shards that are there already."""

    kind: Literal["shards"] = "shards"
    tokenizer: str = ""
    """Folder of the Hugging Face tokenizer that made the shards."""
    sources: dict[str, ShardSource] = field(default_factory=dict)
    """Source name -> its shards."""
