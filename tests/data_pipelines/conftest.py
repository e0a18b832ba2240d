"""A small tokenizer and small shards that the tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash

from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.reader import OpenData, open_part
from data_pipelines.shards.writer import ShardWriter
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer

MakeShards = Callable[..., str]

TEXTS = ["the cat sat on the mat, and the dog sat on the log. " * 20, "x = 1234567\nif x > 3:\n    return x\n" * 20]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, vocab_size=300), folder)
    return folder


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """make_shards(name, *shards) -> URI: each shard a list of documents, each document a list of token ids."""

    def make(name: str, *shards: Sequence[Sequence[int]], uri: str | None = None, block_bytes: int = 64) -> str:
        uri = uri or str(tmp_path / name)
        records = []
        for number, documents in enumerate(shards):
            with ShardWriter(uri, f"{number:05}", "uint16", block_bytes=block_bytes) as writer:
                for k, document in enumerate(documents):
                    writer.add(f"{name}-{number}-{k}", list(document))
            records.append(writer.record)
        Manifest(dtype="uint16", eos_id=1, tokenizer="none", shards=tuple(records)).save(uri)
        return uri

    return make


def opened(prepared: Prepared) -> OpenData:
    """What a start would hand on, whatever tokenizer made the shards."""
    train = {name: open_part(source, source.train) for name, source in prepared.sources.items()}
    held_out = {
        name: open_part(source, source.held_out) for name, source in prepared.sources.items() if source.held_out
    }
    return OpenData(prepared=prepared, train=train, held_out=held_out)


def make_version_1(folder: str, block_bytes: int = 64) -> str:
    """Turns a folder of shards into one as versions until f4300b6 wrote it: no trees, all hashes in the manifest."""
    path = Path(folder, "manifest.json")
    content = json.loads(path.read_text())
    content |= {"version": 1, "block_bytes": block_bytes}
    for shard in content["shards"]:
        del shard["tree"], shard["files"][".ds.hashes"]
        Path(folder, f"{shard['name']}.ds.hashes").unlink()
        for suffix, record in shard["files"].items():
            data = Path(folder, shard["name"] + suffix).read_bytes()
            starts = range(0, len(data), block_bytes)
            record["blocks"] = [xxhash.xxh3_128_hexdigest(data[start : start + block_bytes]) for start in starts]
    path.write_text(json.dumps(content))
    return folder


def random_documents(num_tokens: int, *, seed: int, vocab_size: int = 300) -> list[list[int]]:
    """Documents of 5 to 60 tokens, each ended by token 1, `num_tokens` in all."""
    rng = np.random.default_rng(seed)
    documents = []
    while num_tokens:
        length = min(num_tokens, int(rng.integers(5, 61)))
        documents.append([*rng.integers(4, vocab_size, length - 1).tolist(), 1])
        num_tokens -= length
    return documents
