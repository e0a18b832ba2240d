"""A corpus made ready to train on, once: hold out, train the tokenizer, write shards.

The result lies in <data.dir>/<key>/, where the key is a hash of everything that determines it: nothing is overwritten,
and a changed corpus or setting is prepared anew.

    prepared.json    written last
    tokenizer/       Hugging Face folder
    <source>/train/  shards and manifest.json
    <source>/held_out/
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import filterfalse
from pathlib import Path

import tokenizers
import xxhash
from filelock import FileLock
from tqdm import tqdm

from data_pipelines.base.files import write_whole
from data_pipelines.corpora import Corpus
from data_pipelines.corpora.files import FilesData, files_corpus, files_fingerprint
from data_pipelines.corpora.holdout import Split, split_documents
from data_pipelines.corpora.kinds import AnyData
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.corpora.stdlib import StdlibData, stdlib_corpus, stdlib_fingerprint
from data_pipelines.corpora.tokenized import write_manifest, write_shard
from data_pipelines.documents import Document
from data_pipelines.shards.manifest import DataError, Manifest
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from data_pipelines.tokenizer.encoder import TextEncoder

VERSION = 2  # part of the key: raise it when the same corpus and settings give other bytes
SAMPLE_CHARS_PER_ID = 512  # text that the tokenizer is trained on, in all, for each id of its vocabulary


def prepare(data: AnyData) -> Prepared:
    """Prepare `data` unless that is done already. Any number of processes may call it: one works, the others wait.

    Raises ValueError for settings and DataError for data that cannot be used.
    """
    if isinstance(data, ShardsData):
        return _check_shards(data)
    root = Path(data.dir) / _key(data)
    if not (root / "prepared.json").is_file():  # else nothing is written: the folder may be on a read-only mount
        _build_once(data, root)
    sources = json.loads((root / "prepared.json").read_text())
    return Prepared(
        tokenizer_dir=data.tokenizer or str(root / "tokenizer"),
        sources={
            name: ShardSource(**{part: str(root / name / part) for part in parts}) for name, parts in sources.items()
        },
    )


def find_tokenizer(data: AnyData) -> Path:
    """Folder of the tokenizer of `data`, for readers: prepares nothing. Raises ValueError or OSError for none."""
    if data.tokenizer:
        return Path(data.tokenizer)
    assert not isinstance(data, ShardsData)  # they name theirs
    folder = Path(data.dir) / _key(data) / "tokenizer"
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist")
    return folder


def _build_once(data: StdlibData | FilesData, root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"data.dir={data.dir} cannot be written ({err.strerror}); choose another folder") from err
    with FileLock(f"{root}.lock"):
        if not (root / "prepared.json").is_file():
            _build(data, root)


def _build(data: StdlibData | FilesData, root: Path) -> None:
    shutil.rmtree(root)  # what an interrupted preparation left
    corpus = _corpus(data)
    print(f"preparing {data.kind} corpus in {root}: reading ...", file=sys.stderr, flush=True)
    sample_chars = data.vocab_size * SAMPLE_CHARS_PER_ID // len(corpus)
    splits = {
        name: split_documents(name, read(), held_out=data.held_out, sample_chars=sample_chars)
        for name, read in corpus.items()
    }
    if not data.tokenizer:
        _train_tokenizer(corpus, splits, data.vocab_size, root / "tokenizer")
    encoder = TextEncoder(data.tokenizer or root / "tokenizer")
    total = sum(split.num_chars for split in splits.values())
    with tqdm(total=total, desc="tokenise", unit=" chars", unit_scale=True) as bar:
        for name, read in corpus.items():
            _write_source(root / name, read, splits[name], encoder, bar.update)
    parts = {name: ["train", "held_out"] if split.held_out else ["train"] for name, split in splits.items()}
    write_whole(root / "prepared.json", json.dumps(parts))


def _train_tokenizer(corpus: Corpus, splits: dict[str, Split], vocab_size: int, folder: Path) -> None:
    def sample() -> Iterator[str]:
        for name, read in corpus.items():
            for document in filter(splits[name].is_sampled, read()):
                bar.update(len(document.text))
                yield document.text

    with tqdm(desc=f"train BPE of {vocab_size:,}", unit=" chars", unit_scale=True) as bar:
        save_tokenizer(train_tokenizer(sample(), vocab_size), folder)


def _write_source(
    folder: Path,
    read: Callable[[], Iterator[Document]],
    split: Split,
    encoder: TextEncoder,
    progress: Callable[[int], object],
) -> None:
    parts: dict[str, Iterator[Document]] = {"train": filterfalse(split.is_held_out, read())}
    if split.held_out:
        parts["held_out"] = filter(split.is_held_out, read())
    for part, documents in parts.items():
        uri = str(folder / part)
        write_manifest(uri, encoder, [write_shard(documents, encoder, uri=uri, name="00000", progress=progress)])


def _corpus(data: StdlibData | FilesData) -> Corpus:
    return stdlib_corpus() if isinstance(data, StdlibData) else files_corpus(data.sources)


def _key(data: StdlibData | FilesData) -> str:
    """16 hex digits of everything that determines what is prepared."""
    if data.tokenizer:
        encoder = TextEncoder(data.tokenizer)
        tokenizer = [encoder.hash, encoder.eos_id]
    else:
        tokenizer = [data.vocab_size, tokenizers.__version__]
    corpus = stdlib_fingerprint() if isinstance(data, StdlibData) else files_fingerprint(data.sources)
    settings = {"version": VERSION, "corpus": corpus, "tokenizer": tokenizer, "held_out": data.held_out}
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
