"""Opens prepared data, each source by the reader of its format."""

from __future__ import annotations

from data_pipelines.shards.formats import FORMATS
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.shards.source import TokenSource


def open_train(prepared: Prepared) -> dict[str, TokenSource]:
    """Source name -> its training part. Raises DataError for shards that are missing or damaged."""
    return {name: open_part(source, source.train) for name, source in prepared.sources.items()}


def open_held_out(prepared: Prepared) -> dict[str, TokenSource]:
    """The held-out part of each source that has one. Raises DataError as `open_train` does."""
    return {name: open_part(source, source.held_out) for name, source in prepared.sources.items() if source.held_out}


def open_part(source: ShardSource, uri: str) -> TokenSource:
    """One of the folders of `source`."""
    return FORMATS[source.format](uri)
