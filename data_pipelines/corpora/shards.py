"""Shards that are there already, as a kind of the `data` section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.corpora.config import DataOptions
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.shards.reader import open_part
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

    def open(self) -> Prepared:
        """The shards as they are. Raises ValueError where none are named, DataError with all that is wrong with them.

        One tokenizer has to have made all of them: ids of two would mean different texts to one model.
        """
        if not self.sources:
            raise ValueError("data.sources is empty; name one: data.sources.web.train=s3://bucket/web")
        if not self.tokenizer:  # which would be looked for in the current folder
            raise ValueError("data.tokenizer is missing; name the folder of the tokenizer that made the shards")
        expected = TextEncoder(self.tokenizer).hash
        if problems := [problem for name in self.sources for problem in self._problems(name, expected)]:
            raise DataError("\n".join(problems))
        return Prepared(tokenizer_dir=self.tokenizer, sources=dict(self.sources))

    def _problems(self, name: str, expected: str) -> list[str]:
        """What is wrong with the folders of one source, a line each."""
        source, problems = self.sources[name], []
        for uri in filter(None, (source.train, source.held_out)):
            try:
                got = open_part(source, uri).manifest.tokenizer
            except DataError as error:
                problems.append(str(error))
                continue
            if got != expected:
                problems.append(
                    f"data.sources.{name}: {uri} was made by a tokenizer with hash {got[:12]}, data.tokenizer="
                    f"{self.tokenizer} has {expected[:12]}; tokenise again or name the tokenizer that made it"
                )
        return problems
