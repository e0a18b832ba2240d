"""Documents -> shards. As a command: files -> shards, with as many processes as there are cores.

    python -m data_pipelines.tokenize --input 'corpus/*.jsonl.gz' --tokenizer data/tok --out s3://bucket/corpus

Each input file becomes one shard, so the bytes do not depend on the number of workers; a folder without manifest.json
is not finished. To use the result: `data=shards data.tokenizer=... data.sources.web.train=URI`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

from tqdm import tqdm

from data_pipelines.corpora import Document
from data_pipelines.corpora.files import find_files, read_documents
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.writer import ShardWriter, token_dtype
from data_pipelines.tokenizer.encoder import TextEncoder

BATCH_CHARS = 2**20  # texts handed to the tokenizer at a time; it spreads them over its threads


def write_shard(
    documents: Iterable[Document],
    encoder: TextEncoder,
    *,
    uri: str,
    name: str,
    progress: Callable[[int], object] = lambda num_chars: None,
) -> ShardRecord:
    """Tokenise documents into one shard; empty ones are left out."""
    with ShardWriter(uri, name, token_dtype(encoder.vocab_size)) as writer:
        for batch in _batches(documents):
            texts = [document.text for document in batch]
            for document, token_ids in zip(batch, encoder.encode(texts), strict=True):
                writer.add(document.name, token_ids)
            progress(sum(map(len, texts)))
    return writer.record


def write_manifest(uri: str, encoder: TextEncoder, shards: Iterable[ShardRecord]) -> Manifest:
    """Commit the shards of a folder. Raises ValueError if there is no token in them."""
    manifest = Manifest(
        dtype=token_dtype(encoder.vocab_size), eos_id=encoder.eos_id, tokenizer=encoder.hash, shards=tuple(shards)
    )
    if not manifest.num_tokens:
        raise ValueError(f"{uri}: the documents are all empty, nothing to train on")
    manifest.save(uri)
    return manifest


def tokenize_files(
    files: dict[str, str], tokenizer: str, uri: str, *, text_key: str = "text", workers: int = 1
) -> Manifest:
    """One shard a file, named 00000, 00001, ... in the order of `files`: document name -> URI."""
    if Manifest.exists(uri):
        raise ValueError(f"{uri} holds shards already; choose another folder or delete that one")
    encoder = _encoder(tokenizer)
    job = partial(_tokenize_file, tokenizer=tokenizer, uri=uri, text_key=text_key)
    jobs = [(f"{number:05}", name, file) for number, (name, file) in enumerate(files.items())]
    bar = partial(tqdm, total=len(jobs), desc="tokenise", unit="file")
    if workers == 1:
        return write_manifest(uri, encoder, [job(item) for item in bar(jobs)])
    with multiprocessing.get_context("spawn").Pool(workers, _work_alone) as pool:
        return write_manifest(uri, encoder, bar(pool.imap(job, jobs)))


def _work_alone() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process a core beats threads inside one tokenizer


def _tokenize_file(file: tuple[str, str, str], *, tokenizer: str, uri: str, text_key: str) -> ShardRecord:
    shard, name, source = file
    return write_shard(read_documents(source, name, text_key), _encoder(tokenizer), uri=uri, name=shard)


@cache  # a worker loads its tokenizer once, not once a file
def _encoder(folder: str) -> TextEncoder:
    return TextEncoder(folder)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num_chars = 0
    for document in documents:
        if not document.text:
            continue
        batch.append(document)
        num_chars += len(document.text)
        if num_chars >= BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tokenize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, metavar="GLOB", help="text or *.jsonl(.gz) files, path or fsspec URI")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder of a Hugging Face tokenizer")
    parser.add_argument("--out", required=True, metavar="URI", help="folder for the shards, path or fsspec URI")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field of the text in JSONL (default: text)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    args = parser.parse_args(arguments)
    try:
        files = find_files(args.input, setting="--input")
        manifest = tokenize_files(files, args.tokenizer, args.out, text_key=args.text_key, workers=max(1, args.workers))
    except (ValueError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"{args.out}: {manifest.num_tokens:,} tokens in {manifest.num_documents:,} documents")
    return 0


if __name__ == "__main__":
    sys.exit(main())
