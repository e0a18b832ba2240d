"""A user's own files as a corpus. Which files a pattern means is in documents/find.py, how they become documents in
documents/pieces.py, what they may be in documents/kinds/."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

import xxhash

from data_pipelines.corpora import Corpus
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.documents import Document
from data_pipelines.documents.content.tally import ReadOptions, Tally, Undecodable
from data_pipelines.documents.find import StoredFile, find_files
from data_pipelines.documents.pieces import read_documents, split


def files_corpus(sources: Mapping[str, FileSource]) -> Corpus:
    """Raises ValueError where there is no source or a pattern matches no file, and with the files that are of no kind
    that is read: not one is read before all of them are known."""
    found = _find(sources)
    for name, files in found.items():
        split(files, sources[name].options(), sys.maxsize)
    return {name: partial(_documents, name, files, sources[name].options()) for name, files in found.items()}


def files_fingerprint(sources: Mapping[str, FileSource]) -> str:
    """Hash of names, sizes and times of the files (their store's tags where it has some), not of their contents."""
    state = xxhash.xxh3_128()
    for name, files in sorted(_find(sources).items()):
        state.update(f"{name}\0{sources[name].text_key}\0".encode())
        if (undecodable := sources[name].undecodable) != "error":  # which was the only way once
            state.update(f"{undecodable}\0".encode())
        for file in files.values():
            state.update(f"{file.uri}\0{file.fs.ukey(file.path)}\0".encode(errors="surrogateescape"))
    return state.hexdigest()


def _find(sources: Mapping[str, FileSource]) -> dict[str, dict[str, StoredFile]]:
    """Source name -> its files."""
    if not sources:
        raise ValueError("data.sources is empty; name one: data.sources.web.glob='my/texts/*.txt'")
    return {name: find_files(source.glob, setting=f"data.sources.{name}.glob") for name, source in sources.items()}


def _documents(source: str, files: Mapping[str, StoredFile], options: ReadOptions) -> Iterator[Document]:
    """Says what was left out or mended, once they are all read."""
    tally = Tally()
    for name, file in files.items():
        yield from read_documents(file, name, options, tally)
    if tally.places:
        _say(f"data.sources.{source}: " + "\n".join(tally.report()))


@cache  # a source is read several times: to hold out, to train a tokenizer, to write shards
def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(kw_only=True, slots=True)
class FileSource:
    """Documents in files."""

    glob: str
    """Files of the source: a local pattern, any fsspec URI (`s3://bucket/web/**/*.jsonl.gz`), a folder saved by
    `datasets` of Hugging Face, or a data set by name (`datasets://NAME?name=CONFIG&split=train`). Each file is read as
    what it is by its content: JSONL, Parquet, Arrow, a tar of text, or UTF-8 text; packed (.gz, .bz2, .xz, .zst) or
    not."""
    text_key: str = "text"
    """Field or column that holds the text; `a.b` is field b of a."""
    undecodable: Undecodable = "error"
    """What becomes of a document that cannot be decoded: `error` ends the preparation, `skip` leaves it out, `replace`
    puts U+FFFD where single characters cannot be decoded. What is left out or mended is counted, and the first are
    listed. A file of a kind that is not read is an error in each case."""

    def options(self) -> ReadOptions:
        """How its files are read."""
        return ReadOptions(self.text_key, self.undecodable)


@dataclass(kw_only=True, slots=True)
class FilesData(CorpusOptions):
    """A user's own files of text."""

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
