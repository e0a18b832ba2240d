"""Shards that are there already, as a kind of the `data` section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.corpora.config import DataOptions
from data_pipelines.corpora.ready import open_data
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.shards.reader import OpenData
from data_pipelines.tokenizer.encoder import TextEncoder


@dataclass(kw_only=True, slots=True)
class ShardsData(DataOptions):
    """Shards that are there already."""

    kind: Literal["shards"] = "shards"
    tokenizer: str = ""
    """Folder of the Hugging Face tokenizer that made the shards."""
    sources: dict[str, ShardSource] = field(default_factory=dict)
    """Source name -> its shards."""

    def source_names(self) -> list[str]:
        return sorted(self.sources)

    def open(self) -> OpenData:
        """The shards as they are. Raises ValueError where none are named, DataError with all that is wrong."""
        if not self.sources:
            raise ValueError("data.sources is empty; name one: data.sources.web.train=s3://bucket/web")
        if not self.tokenizer:  # which would be looked for in the current folder
            raise ValueError("data.tokenizer is missing; name the folder of the tokenizer that made the shards")
        prepared = Prepared(tokenizer_dir=self.tokenizer, sources=dict(self.sources))
        made_by = TextEncoder(self.tokenizer).hash
        remedy = "tokenise again or name the tokenizer that made it as data.tokenizer"
        return open_data(prepared, made_by, prefix="data.sources.", remedy=remedy)
