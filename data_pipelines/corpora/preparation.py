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

from data_pipelines.base.files import room_in
from data_pipelines.base.progress import progress_bar
from data_pipelines.corpora import Corpus
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.corpora.holdout import Split, split_documents
from data_pipelines.corpora.ready import READY, load_parts, open_data, prepared_anew, save_parts
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.corpora.tokenized import write_manifest, write_shard
from data_pipelines.documents import Document
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared, ShardSource
from data_pipelines.shards.reader import OpenData
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from data_pipelines.tokenizer.encoder import TextEncoder
from data_pipelines.tokenizer.file import file_hash

VERSION = 2
"""Part of the key: raise it when the same corpus and settings give other bytes."""
SAMPLE_CHARS_PER_ID = 512
"""Characters that the tokenizer is trained on, in all, for each id of its vocabulary."""


def prepare(data: CorpusOptions | ShardsData) -> OpenData:
    """Opens `data`, which it prepares unless that is done already. Any number of processes may call it: one works, the
    others wait.

    Raises ValueError for settings and DataError for data that cannot be used.
    """
    if isinstance(data, ShardsData):
        return data.open()
    root = _root(data)
    if not _is_ready(root):  # else nothing is written: the folder may be on a read-only mount
        _build_once(data, root)
    return _open(data, root)


def open_prepared(data: CorpusOptions | ShardsData) -> OpenData:
    """What `prepare` made of `data` before, for those who only read: nothing is prepared, nothing is written.

    Raises ValueError for settings and DataError for data that are not there or cannot be used.
    """
    if isinstance(data, ShardsData):
        return data.open()
    root = _root(data)
    if not _is_ready(root):
        raise DataError(
            f"{root / READY} is missing: the data have not been prepared there, or the corpus, its settings or the "
            "tokenizer have changed since; restore them, or prepare the data with python -m data_pipelines.prepare "
            "and the same settings"
        )
    return _open(data, root)


def is_prepared(data: CorpusOptions) -> bool:
    """Whether `prepare` has nothing to do. Raises ValueError where there is no corpus or no tokenizer as configured."""
    return _is_ready(_root(data))


def _root(data: CorpusOptions) -> Path:
    """The folder of `data`, whether it is there or not."""
    return Path(data.dir) / _key(data)


def _is_ready(root: Path) -> bool:
    return (root / READY).is_file()


def _open(data: CorpusOptions, root: Path) -> OpenData:
    """Raises DataError where the list of its parts is damaged, and where its tokenizer did not make its shards."""
    parts = load_parts(str(root))
    sources = {name: {part: str(root / name / part) for part in found} for name, found in parts.items()}
    prepared = Prepared(
        tokenizer_dir=data.tokenizer or str(root / "tokenizer"),
        sources={name: ShardSource(**uris) for name, uris in sources.items()},
    )
    remedy = f"restore what was changed, or {prepared_anew(root)}"
    try:
        made_by = file_hash(Path(prepared.tokenizer_dir))
    except ValueError as error:
        raise DataError(f"{error}; {remedy}") from error
    return open_data(prepared, made_by, prefix="source ", remedy=remedy)


def find_tokenizer(data: CorpusOptions | ShardsData) -> Path:
    """Folder of the tokenizer of `data`, for those who only read. Raises ValueError or DataError where there is none.

    One that the settings name needs no prepared data beside it.
    """
    return Path(data.tokenizer or open_prepared(data).prepared.tokenizer_dir)


def _build_once(data: CorpusOptions, root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"data.dir={data.dir} cannot be written ({err.strerror}); choose another folder") from err
    with room_in(f"data.dir={data.dir}"), FileLock(f"{root}.lock"):
        if not _is_ready(root):
            try:
                _build(data, root)
            except OSError:  # else what is there already would go on filling the disk
                shutil.rmtree(root, ignore_errors=True)
                raise


def _build(data: CorpusOptions, root: Path) -> None:
    shutil.rmtree(root)  # what an interrupted preparation left
    corpus = data.corpus()
    print(f"preparing {', '.join(corpus)} in {root}: reading ...", file=sys.stderr, flush=True)
    sample_chars = data.vocab_size * SAMPLE_CHARS_PER_ID // len(corpus)
    splits = {
        name: split_documents(name, read(), held_out=data.held_out, sample_chars=sample_chars)
        for name, read in corpus.items()
    }
    if not data.tokenizer:
        _train_tokenizer(corpus, splits, data.vocab_size, root / "tokenizer")
    encoder = TextEncoder(data.tokenizer or root / "tokenizer")
    total = sum(split.num_chars for split in splits.values())
    with progress_bar(total=total, desc="tokenise", unit=" chars", unit_scale=True) as bar:
        for name, read in corpus.items():
            _write_source(root / name, read, splits[name], encoder, bar.update)
    save_parts(root, {name: ["train", "held_out"] if split.held_out else ["train"] for name, split in splits.items()})


def _train_tokenizer(corpus: Corpus, splits: dict[str, Split], vocab_size: int, folder: Path) -> None:
    def sample() -> Iterator[str]:
        for name, read in corpus.items():
            for document in filter(splits[name].is_sampled, read()):
                bar.update(len(document.text))
                yield document.text

    with progress_bar(desc=f"train BPE of {vocab_size:,}", unit=" chars", unit_scale=True) as bar:
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


def _key(data: CorpusOptions) -> str:
    """16 hex digits of everything that determines what is prepared."""
    if data.tokenizer:
        encoder = TextEncoder(data.tokenizer)
        tokenizer = [encoder.hash, encoder.eos_id]
    else:
        tokenizer = [data.vocab_size, tokenizers.__version__]
    settings = {"version": VERSION, "corpus": data.fingerprint(), "tokenizer": tokenizer, "held_out": data.held_out}
    return xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())
