"""What a window of tokens and a start read, by manifests of both versions: the part of bench_scale on data."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data_pipelines.shards.manifest import (
    BLOCK_BYTES,
    ENDS,
    FILE_NAME,
    HASHES,
    IN_TREE,
    NAMES,
    TOKENS,
    FileRecord,
    Manifest,
    ShardRecord,
    TokenType,
    TreeRecord,
)
from data_pipelines.shards.shard import BlockReader, ShardReader, TreeReader
from data_pipelines.shards.tree import BLOCK_BYTES as TREE_BLOCK_BYTES
from data_pipelines.shards.tree import level_bytes
from data_pipelines.shards.writer import ShardWriter
from tests.counted import CountedStore, read_bytes
from tests.data_pipelines.conftest import make_version_1
from tests.measured import run_measured, status_bytes

READERS: dict[str, type[BlockReader] | type[TreeReader]] = {"version 1": BlockReader, "now": TreeReader}
WINDOWS: dict[tuple[int, TokenType], str] = {
    (4096, "uint16"): "4,096 ids of 2 bytes",
    (8192, "uint16"): "8,192 ids of 2 bytes",
    (8192, "uint32"): "8,192 ids of 4 bytes",
}
SHARD_BYTES = 256 * 2**20  # from 192 MiB on a tree has three levels
NUM_WINDOWS = 100
TOKENS_10T, NUM_SHARDS, DOCUMENT_TOKENS, NAME_BYTES = 10**13, 1000, 1000, 30


def data_table() -> dict[str, dict[str, str]]:
    """Figure -> version of the manifest -> its value, as it is shown."""
    return {**_reads_table(), **_manifest_table()}


def _reads_table() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for dtype in ("uint16", "uint32"):
        with TemporaryDirectory() as place:
            folders = write_shard(Path(place), dtype)
            for seq_len, name in ((length, name) for (length, of), name in WINDOWS.items() if of == dtype):
                found = {version: read_windows(version, folder, seq_len) for version, folder in folders.items()}
                table[f"a window of {name}: read / used"] = {
                    version: f"{ratio:,.2f}" for version, (ratio, _) in found.items()
                }
                table[f"a window of {name}: reads"] = {version: f"{calls:.1f}" for version, (_, calls) in found.items()}
    return table


def write_shard(place: Path, dtype: TokenType) -> dict[str, Path]:
    """Version -> a folder with one shard of SHARD_BYTES, in documents as long as those of the web."""
    rng, now = np.random.default_rng(0), place / "now"
    ids, left = rng.integers(4, 60_000, 20_000).tolist(), SHARD_BYTES // np.dtype(dtype).itemsize
    with ShardWriter(str(now), "00000", dtype) as writer:
        while left:
            length = min(left, 20_000, max(1, int(rng.lognormal(np.log(600), 1))))
            writer.add("a document with a name", ids[:length])
            left -= length
    Manifest(dtype=dtype, eos_id=1, tokenizer="t", shards=(writer.record,)).save(str(now))
    shutil.copytree(now, place / "before", copy_function=os.link)
    (place / "before" / FILE_NAME).unlink()
    shutil.copy(now / FILE_NAME, place / "before")
    return {"version 1": Path(make_version_1(str(place / "before"), BLOCK_BYTES)), "now": now}


def read_windows(version: str, folder: Path, seq_len: int) -> tuple[float, float]:
    """(bytes read / bytes used, reads) of a window of which nothing is known: a reader of its own for each.

    Of 10T tokens a rank meets no window again, and hardly a block or a page.
    """
    manifest = Manifest.load(str(folder))
    starts = np.random.default_rng(2).integers(0, manifest.num_tokens - seq_len - 1, NUM_WINDOWS).tolist()
    CountedStore.reads.clear()
    for start in starts:
        reader: ShardReader = READERS[version](f"counted://{folder}", manifest)
        reader.tokens(0, start, start + seq_len + 1)
        reader.ends(0, start, start + seq_len + 1)
    calls = len(CountedStore.reads) / NUM_WINDOWS
    return read_bytes() / (NUM_WINDOWS * (seq_len + 1) * manifest.itemsize), calls


def _manifest_table() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for version in READERS:
        with TemporaryDirectory() as folder:
            content = json.dumps(asdict(manifest_of_10t(version)), indent=1).encode()
            Path(folder, FILE_NAME).write_bytes(content)
            taken = run_measured("tests.bench_scale.data", folder)
        if taken.exit_code:
            sys.exit(taken.output)
        seconds, grown = json.loads(taken.output.splitlines()[-1])
        figures = {
            "size": f"{len(content) / 1e6:.1f} MB",
            "loaded": f"{seconds:.2f} s",
            "grown by": f"{grown / 2**20:,.0f} MiB",
        }
        for name, value in figures.items():
            table.setdefault(f"manifest of 10T tokens: {name}", {})[version] = value
    return table


def manifest_of_10t(version: str) -> Manifest:
    """10T ids of 4 bytes in 1,000 shards, with hashes that are none."""
    tokens = TOKENS_10T // NUM_SHARDS
    documents = tokens // DOCUMENT_TOKENS
    sizes = {TOKENS: 4 * tokens, ENDS: 8 * documents, NAMES: NAME_BYTES * documents}
    tree = TreeRecord(block_bytes=TREE_BLOCK_BYTES, root="0" * 32) if version == "now" else None
    if tree:
        sizes[HASHES] = sum(level_bytes(-(-sizes[TOKENS] // TREE_BLOCK_BYTES)))

    def record(suffix: str) -> FileRecord:
        count = 0 if tree and suffix in IN_TREE else -(-sizes[suffix] // BLOCK_BYTES)
        return FileRecord(
            bytes=sizes[suffix], sha256=os.urandom(32).hex(), blocks=tuple(os.urandom(16).hex() for _ in range(count))
        )

    shards = tuple(
        ShardRecord(
            name=f"{number:05}",
            tokens=tokens,
            documents=documents,
            max_token_id=200_000,
            files={suffix: record(suffix) for suffix in sizes},
            tree=tree,
        )
        for number in range(NUM_SHARDS)
    )
    return Manifest(version=2 if tree else 1, dtype="uint32", eos_id=0, tokenizer="0" * 64, shards=shards)


def load_manifest(folder: str) -> tuple[float, int]:
    """(seconds of the processor, bytes that the process grows by)."""
    before, started = status_bytes("VmRSS"), time.process_time()
    Manifest.load(folder)
    return time.process_time() - started, status_bytes("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps(load_manifest(sys.argv[1])))
