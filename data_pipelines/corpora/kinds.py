"""The kinds of the `data` section, by name."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from data_pipelines.corpora.files import FilesData
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.corpora.stdlib import StdlibData

AnyData: TypeAlias = StdlibData | FilesData | ShardsData


DataConfig = Annotated[AnyData, Field(discriminator="kind")]
"""Validate with TypeAdapter(DataConfig); `kind` chooses the class."""


def source_names(data: AnyData) -> list[str]:
    """Names that `data.mix` may use, known before anything is prepared."""
    return ["code", "prose", "stem"] if isinstance(data, StdlibData) else sorted(data.sources)
