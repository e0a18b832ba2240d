"""The kinds of the `data` section: the one place where they are named."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from data_pipelines.corpora.files import FilesData
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.corpora.stdlib import StdlibData

AnyData: TypeAlias = StdlibData | FilesData | ShardsData

DataConfig = Annotated[AnyData, Field(discriminator="kind")]
"""Validate with TypeAdapter(DataConfig); `kind` chooses the class."""
