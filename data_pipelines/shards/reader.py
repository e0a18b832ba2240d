"""Opens prepared data, each source by the reader of its format."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipelines.shards.prepared import FORMATS, Prepared, ShardSource
from data_pipelines.shards.source import TokenSource


@dataclass(frozen=True, kw_only=True)
class OpenData:
    """Prepared data that were opened: a start reads each manifest once, and hands this on."""

    prepared: Prepared
    train: dict[str, TokenSource]
    """Source name -> its training part."""
    held_out: dict[str, TokenSource]
    """The held-out part of each source that has one."""


def open_part(source: ShardSource, uri: str) -> TokenSource:
    """One of the folders of `source`. Raises DataError for shards that are missing or damaged."""
    return FORMATS[source.format](uri)
