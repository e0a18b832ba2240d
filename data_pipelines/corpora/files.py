"""A user's own files as a corpus. Which files a pattern means is in find.py, how they become documents in text.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import xxhash

from data_pipelines.corpora import Corpus
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.documents import Document
from data_pipelines.documents.content.tally import ReadOptions
from data_pipelines.documents.find import StoredFile, find_files
from data_pipelines.documents.pieces import read_documents


def files_corpus(sources: Mapping[str, FileSource]) -> Corpus:
    """Raises ValueError where there is no source or a pattern matches no file."""
    return {name: partial(_documents, files, sources[name].text_key) for name, files in _find(sources).items()}


def files_fingerprint(sources: Mapping[str, FileSource]) -> str:
    """Hash of names, sizes and times of the files (their store's tags where it has some), not of their contents."""
    state = xxhash.xxh3_128()
    for name, files in sorted(_find(sources).items()):
        state.update(f"{name}\0{sources[name].text_key}\0".encode())
        for file in files.values():
            state.update(f"{file.uri}\0{file.fs.ukey(file.path)}\0".encode(errors="surrogateescape"))
    return state.hexdigest()


def _find(sources: Mapping[str, FileSource]) -> dict[str, dict[str, StoredFile]]:
    """Source name -> its files."""
    if not sources:
        raise ValueError("data.sources is empty; name one: data.sources.web.glob='my/texts/*.txt'")
    return {name: find_files(source.glob, setting=f"data.sources.{name}.glob") for name, source in sources.items()}


def _documents(files: Mapping[str, StoredFile], text_key: str) -> Iterator[Document]:
    for name, file in files.items():
        yield from read_documents(file, name, ReadOptions(text_key))


@dataclass(kw_only=True, slots=True)
class FileSource:
    """Documents in files."""

    glob: str
    """Files of the source: a local pattern or any fsspec URI, `s3://bucket/web/**/*.jsonl.gz`. Read from .jsonl and
    .ndjson, a document a line, and from any other UTF-8 text, one document; each may be packed (.gz, .bz2, .xz)."""
    text_key: str = "text"
    """Field that holds the text in .jsonl and .ndjson."""


@dataclass(kw_only=True, slots=True)
class FilesData(CorpusOptions):
    """A user's own text and JSONL files."""

    kind: Literal["files"] = "files"
    dir: str = "data/files"
    sources: dict[str, FileSource] = field(default_factory=dict)
    """Source name -> its files."""

    def source_names(self) -> list[str]:
        return sorted(self.sources)

    def corpus(self) -> Corpus:
        return files_corpus(self.sources)

    def fingerprint(self) -> str:
        return files_fingerprint(self.sources)
