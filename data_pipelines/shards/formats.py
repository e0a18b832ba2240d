"""The formats of shards, by name. A new one is a file with its TokenSource, and a line here."""

from __future__ import annotations

from data_pipelines.shards.datatrove import Source
from data_pipelines.shards.source import TokenSource

FORMATS: dict[str, type[TokenSource]] = {
    "datatrove": Source,
}
