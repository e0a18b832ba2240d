"""Documents -> shards of token ids, and the manifest of a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count

from data_pipelines.documents import Document
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.writer import ShardWriter, token_dtype
from data_pipelines.tokenizer.encoder import TextEncoder

BATCH_CHARS = 2**20
"""Characters handed to the tokenizer at a time; it spreads them over its threads."""


def write_shards(
    documents: Iterable[Document],
    encoder: TextEncoder,
    *,
    uri: str,
    name: str,
    most_bytes: int | None = None,
    progress: Callable[[int, int], object] = lambda num_chars, num_tokens: None,
) -> list[ShardRecord]:
    """Tokenise documents into `name`, and `name`-1, ... each time that `most_bytes` of tokens are full; empty documents
    are left out. progress: called with the characters and the tokens since the last call.

    Raises ValueError for what cannot be read, OSError where the store fails; the shard at work is removed then.
    """
    batches, records = _batches(documents), []
    for number in count():
        first = next(batches, None)
        if first is None and number:
            return records
        shard = f"{name}-{number}" if number else name
        with ShardWriter(uri, shard, token_dtype(encoder.vocab_size)) as writer:
            for batch in chain([first] if first else [], batches):
                before = writer.num_bytes
                texts = [document.text for document in batch]
                for document, token_ids in zip(batch, encoder.encode(texts), strict=True):
                    writer.add(document.name, token_ids)
                progress(sum(map(len, texts)), (writer.num_bytes - before) // writer.itemsize)
                if most_bytes and writer.num_bytes >= most_bytes:
                    break
        records.append(writer.record)
    raise AssertionError


def write_shard(
    documents: Iterable[Document],
    encoder: TextEncoder,
    *,
    uri: str,
    name: str,
    progress: Callable[[int], object] = lambda num_chars: None,
) -> ShardRecord:
    """All documents in one shard."""
    (record,) = write_shards(documents, encoder, uri=uri, name=name, progress=lambda num_chars, _: progress(num_chars))
    return record


def write_manifest(uri: str, encoder: TextEncoder, shards: Iterable[ShardRecord]) -> Manifest:
    """Commit the shards of a folder. Raises ValueError if there is no token in them."""
    manifest = Manifest(
        dtype=token_dtype(encoder.vocab_size), eos_id=encoder.eos_id, tokenizer=encoder.hash, shards=tuple(shards)
    )
    if not manifest.num_tokens:
        raise ValueError(f"{uri}: the documents are all empty, nothing to train on")
    manifest.save(uri)
    return manifest


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
