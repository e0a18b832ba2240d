"""Documents -> one shard of token ids, and the manifest of a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from data_pipelines.documents import Document
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.writer import ShardWriter, token_dtype
from data_pipelines.tokenizer.encoder import TextEncoder

BATCH_CHARS = 2**20
"""Characters handed to the tokenizer at a time; it spreads them over its threads."""


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
