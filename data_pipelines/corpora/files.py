"""A user's own files as a corpus: *.jsonl and *.jsonl.gz hold a document a line, every other file is one document.

Patterns and paths are fsspec's, so they may be local or on an object store.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Literal, cast

import fsspec
import xxhash

from data_pipelines.corpora import Corpus, Document
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.shards.storage import locate


def files_corpus(sources: Mapping[str, FileSource]) -> Corpus:
    """Raises ValueError where there is no source or a pattern matches no file."""
    return {name: partial(_documents, files, sources[name].text_key) for name, files in _find(sources).items()}


def files_fingerprint(sources: Mapping[str, FileSource]) -> str:
    """Hash of names, sizes and times of the files (their store's tags where it has some), not of their contents."""
    state = xxhash.xxh3_128()
    for name, files in sorted(_find(sources).items()):
        state.update(f"{name}\0{sources[name].text_key}\0".encode())
        for uri in files.values():
            fs, path = locate(uri)
            state.update(f"{uri}\0{fs.ukey(path)}\0".encode())
    return state.hexdigest()


def find_files(pattern: str, *, setting: str) -> dict[str, str]:
    """Name -> URI of the files that match, sorted. Raises ValueError, naming the `setting`, if there is none.

    Names start below the deepest folder that holds all of them, so they stay the same where a corpus is moved.
    """
    fs, path = locate(pattern)
    found = sorted(match for match in fs.glob(path) if fs.isfile(match))
    if not found:
        raise ValueError(
            f"no file matches {setting}={pattern!r} (looked for {path}); "
            "correct the pattern, which starts in the current folder if it is relative"
        )
    folder = posixpath.commonpath([posixpath.dirname(match) for match in found])
    return {posixpath.relpath(match, folder): fs.unstrip_protocol(match) for match in found}


def read_documents(uri: str, name: str, text_key: str = "text") -> Iterator[Document]:
    """The documents of one file: `name`, or `name:line` where there is one a line.

    Raises ValueError with file and line for JSON that is broken or has no such text.
    """
    with cast(IO[str], fsspec.open(uri, "rt", encoding="utf-8", errors="replace", compression="infer")) as file:
        if not uri.endswith((".jsonl", ".jsonl.gz")):
            yield Document(name, file.read())
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Document(f"{name}:{number}", _text(line, text_key, f"{uri}, line {number}"))


def _find(sources: Mapping[str, FileSource]) -> dict[str, dict[str, str]]:
    """Source name -> its files."""
    if not sources:
        raise ValueError("data.sources is empty; name one: data.sources.web.glob='my/texts/*.txt'")
    return {name: find_files(source.glob, setting=f"data.sources.{name}.glob") for name, source in sources.items()}


def _documents(files: Mapping[str, str], text_key: str) -> Iterator[Document]:
    for name, uri in files.items():
        yield from read_documents(uri, name, text_key)


def _text(line: str, text_key: str, where: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as err:
        raise ValueError(f"{where}: not JSON ({err})") from err
    text = record.get(text_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where}: expected text under {text_key!r}, got {fields}; set text_key")
    return text


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
