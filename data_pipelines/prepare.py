"""Make a corpus ready to train on, once: hold out, train the tokenizer, write shards.

    python -m data_pipelines.prepare [data=files data.sources.mine.glob='texts/*.txt' ...]

A keyed hash of its name orders the documents of a source: the low end is held out for validation, all the rest trains,
the high end also trains the tokenizer. The result lies in <data.dir>/<key>/, where the key is a hash of everything that
determines it, so nothing is ever overwritten and a changed corpus or setting is prepared anew:

    prepared.json    written last
    tokenizer/       Hugging Face folder
    <source>/train/  shards and manifest.json
    <source>/held_out/
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tokenizers
import xxhash
from filelock import FileLock
from tqdm import tqdm

from data_pipelines.config import AnyData, FilesData, ShardsData, ShardSource, StdlibData
from data_pipelines.corpora import Corpus, Document
from data_pipelines.corpora.files import files_corpus, files_fingerprint
from data_pipelines.corpora.stdlib import stdlib_corpus, stdlib_fingerprint
from data_pipelines.manifest import DataError, Manifest
from data_pipelines.prp import derive_key
from data_pipelines.tokenize import write_manifest, write_shard
from data_pipelines.tokenizer import TextEncoder, save_tokenizer, tokenizer_hash, train_tokenizer

VERSION = 1  # part of the key: raise it when the same corpus and settings give other bytes
SAMPLE_CHARS_PER_ID = 512  # text that the tokenizer is trained on, in all, for each id of its vocabulary


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where everything lies that training needs to know of its data."""

    tokenizer_dir: str
    sources: dict[str, ShardSource]


def prepare(data: AnyData) -> Prepared:
    """Prepare `data` unless that is done already. Any number of processes may call it: one works, the others wait.

    Raises ValueError for settings and DataError for data that cannot be used.
    """
    if isinstance(data, ShardsData):
        return _check_shards(data)
    root = Path(data.dir) / _key(data)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        if not (root / "prepared.json").is_file():
            _build(data, root)
    sources = json.loads((root / "prepared.json").read_text())
    return Prepared(
        tokenizer_dir=data.tokenizer or str(root / "tokenizer"),
        sources={
            name: ShardSource(**{part: str(root / name / part) for part in parts}) for name, parts in sources.items()
        },
    )


class Split(NamedTuple):
    """How the documents of a source are used. Ranks are hashes of names."""

    num_chars: int
    held_out: frozenset[int]
    sample_from: int
    """Rank from which on a document also trains the tokenizer."""


def rank_of(document: Document) -> int:
    return derive_key(0, "document", document.name)


def split(source: str, documents: Iterator[Document], *, held_out: float, sample_chars: int) -> Split:
    """Walk up the ranks for the held-out part, down for the tokenizer's sample.

    A document larger than the whole held-out part stays in training; where all are, the smallest is held out.
    Raises ValueError if there are too few documents to hold one out.
    """
    sizes = {rank_of(document): len(document.text) for document in documents if document.text}
    if len(sizes) < (2 if held_out else 1):
        raise ValueError(
            f"source {source!r} has {len(sizes)} non-empty document(s), too few to train on some and hold out others; "
            "give it more files or a JSONL file with a document a line, or set data.held_out=0"
        )
    num_chars = sum(sizes.values())
    kept = _hold_out(sizes, held_out * num_chars) if held_out else frozenset()
    sample_from = room = 0
    for rank in sorted(sizes.keys() - kept, reverse=True):
        room += sizes[rank]
        sample_from = rank
        if room >= sample_chars:
            break
    return Split(num_chars, kept, sample_from)


def _hold_out(sizes: dict[int, int], budget: float) -> frozenset[int]:
    fitting = sorted(rank for rank, size in sizes.items() if size <= budget)
    chosen = fitting[:1] or [min(sizes, key=lambda rank: (sizes[rank], rank))]
    for rank in fitting[1:]:
        if sum(sizes[r] for r in chosen) + sizes[rank] > budget:
            break
        chosen.append(rank)
    return frozenset(chosen)


def _build(data: StdlibData | FilesData, root: Path) -> None:
    shutil.rmtree(root)  # what an interrupted preparation left
    corpus = _corpus(data)
    print(f"preparing {data.kind} corpus in {root}: reading ...", file=sys.stderr, flush=True)
    sample_chars = data.vocab_size * SAMPLE_CHARS_PER_ID // len(corpus)
    splits = {
        name: split(name, read(), held_out=data.held_out, sample_chars=sample_chars) for name, read in corpus.items()
    }
    if not data.tokenizer:
        _train_tokenizer(corpus, splits, data.vocab_size, root / "tokenizer")
    encoder = TextEncoder(data.tokenizer or root / "tokenizer")
    total = sum(part.num_chars for part in splits.values())
    with tqdm(total=total, desc="tokenise", unit="B", unit_scale=True) as bar:
        for name, read in corpus.items():
            _write_source(root / name, read, splits[name], encoder, bar.update)
    parts = {name: ["train", "held_out"] if split.held_out else ["train"] for name, split in splits.items()}
    (root / "prepared.tmp").write_text(json.dumps(parts))
    (root / "prepared.tmp").rename(root / "prepared.json")


def _train_tokenizer(corpus: Corpus, splits: dict[str, Split], vocab_size: int, folder: Path) -> None:
    def sample() -> Iterator[str]:
        for name, read in corpus.items():
            _, held_out, sample_from = splits[name]
            for document in read():
                rank = rank_of(document)
                if rank >= sample_from and rank not in held_out:
                    bar.update(len(document.text))
                    yield document.text

    with tqdm(desc=f"train BPE of {vocab_size:,}", unit="B", unit_scale=True) as bar:
        save_tokenizer(train_tokenizer(sample(), vocab_size), folder)


def _write_source(
    folder: Path,
    read: Callable[[], Iterator[Document]],
    split: Split,
    encoder: TextEncoder,
    progress: Callable[[int], object],
) -> None:
    for part in ("train", "held_out") if split.held_out else ("train",):
        wanted = part == "held_out"
        documents = (document for document in read() if (rank_of(document) in split.held_out) == wanted)
        uri = str(folder / part)
        write_manifest(uri, encoder, [write_shard(documents, encoder, uri=uri, name="00000", progress=progress)])


def _corpus(data: StdlibData | FilesData) -> Corpus:
    return stdlib_corpus() if isinstance(data, StdlibData) else files_corpus(data.sources)


def _key(data: StdlibData | FilesData) -> str:
    """16 hex digits of everything that determines what is prepared."""
    settings = {
        "version": VERSION,
        "corpus": stdlib_fingerprint() if isinstance(data, StdlibData) else files_fingerprint(data.sources),
        "tokenizer": tokenizer_hash(data.tokenizer) if data.tokenizer else [data.vocab_size, tokenizers.__version__],
        "held_out": data.held_out,
    }
    return xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())


def _check_shards(data: ShardsData) -> Prepared:
    """Shards are used as they are, if one tokenizer made all of them."""
    if not data.sources:
        raise ValueError("data.sources is empty; name one: data.sources.web.train=s3://bucket/web")
    expected = TextEncoder(data.tokenizer).hash
    for name, source in data.sources.items():
        for uri in filter(None, (source.train, source.held_out)):
            if (got := Manifest.load(uri).tokenizer) != expected:
                raise DataError(
                    f"data.sources.{name}: {uri} was made by a tokenizer with hash {got[:12]}, data.tokenizer="
                    f"{data.tokenizer} has {expected[:12]}; tokenise again or name the tokenizer that made it"
                )
    return Prepared(tokenizer_dir=data.tokenizer, sources=dict(data.sources))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.prepare", description="Hold out, train the tokenizer, write shards."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for python -m train")
    overrides = parser.parse_args(arguments).overrides
    from train.config import check, compose  # imports the engine: seconds that --help should not take

    try:
        data = check(compose(["run.name=prepare", *overrides])).section("data")
        prepared = prepare(data)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"tokenizer: {prepared.tokenizer_dir}")
    for name, source in prepared.sources.items():
        for part, uri in (("train", source.train), ("held out", source.held_out)):
            if uri:
                manifest = Manifest.load(uri)
                print(f"{name}, {part}: {manifest.num_tokens:,} tokens, {manifest.num_documents:,} documents, {uri}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
