"""The `data` section: which corpus, how it is mixed, how it is cut into windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

Weights = dict[str, float]
"""Source name -> weight, on any scale."""


@dataclass(kw_only=True, slots=True)
class DataOptions:
    """What every kind of data has."""

    mix: dict[str, Weights] | None = None
    """Phase name -> weights of the sources; null draws each source in proportion to its size."""
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """How often a source may be read over the whole run; null for no limit."""
    intra_document: bool = True
    """Attention and positions restart at each document, and no label crosses an edge. A window that begins in the
    middle of a document starts at position 0 too. Trinity Large: on. Trinity Nano and Mini: off."""


@dataclass(kw_only=True, slots=True)
class CorpusOptions(DataOptions):
    """Data that is prepared here, on first use."""

    dir: str
    """Folder for tokenizer and shards. Each combination of corpus and settings gets its own folder inside."""
    vocab_size: Annotated[int, Field(ge=260)] = 8192
    """Size of the byte-level BPE to train: 256 bytes, 4 special tokens, the rest merges."""
    tokenizer: str | None = None
    """Folder of an existing Hugging Face tokenizer to use instead of training one."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Share of each source's bytes that is kept for validation: whole documents, chosen by a hash of their names."""


@dataclass(kw_only=True, slots=True)
class StdlibData(CorpusOptions):
    """The standard library of the Python that runs this: sources `code`, `prose`, `stem`."""

    kind: Literal["stdlib"] = "stdlib"
    dir: str = "data/stdlib"


@dataclass(kw_only=True, slots=True)
class FileSource:
    """Documents in files."""

    glob: str
    """Files of the source: a local pattern or any fsspec URI, `s3://bucket/web/**/*.jsonl.gz`."""
    text_key: str = "text"
    """Field that holds the text in *.jsonl and *.jsonl.gz; every other file is one document."""


@dataclass(kw_only=True, slots=True)
class FilesData(CorpusOptions):
    """A user's own text and JSONL files."""

    kind: Literal["files"] = "files"
    dir: str = "data/files"
    sources: dict[str, FileSource] = field(default_factory=dict)
    """Source name -> its files."""


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


AnyData: TypeAlias = StdlibData | FilesData | ShardsData

DataConfig = Annotated[AnyData, Field(discriminator="kind")]
"""Validate with TypeAdapter(DataConfig); `kind` chooses the class."""


def source_names(data: AnyData) -> list[str]:
    """Names that `data.mix` may use, known before anything is prepared."""
    return ["code", "prose", "stem"] if isinstance(data, StdlibData) else sorted(data.sources)
