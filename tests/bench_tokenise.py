"""How fast documents become shards, beside the libraries alone, in one run:

    python -m tests.bench_tokenise [--megabytes 60]

Ours is the whole command: files are read and decoded, text is encoded, shards are written and hashed, the parity of
tiktoken is checked on a sample, the manifest is written. `encode_batch` is the call of `tokenizers` alone, on texts in
memory. datatrove's pipeline is ParquetReader and DocumentTokenizer, without shuffling. All of them on the same
documents, the source text of the installed packages, by a tokenizer of 65,536 ids trained on another part of it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.base.command import aligned
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer

PACKAGES = Path(np.__file__).parents[1]
VOCAB_SIZE = 65_536
TRAINED_CHARS = 30_000_000
RAW = """
import sys, time
from pathlib import Path
import pyarrow.parquet as pq
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.encode_special_tokens = True
texts = [text for path in sorted(Path(sys.argv[2]).iterdir()) for text in pq.read_table(path)["text"].to_pylist()]
start = time.monotonic()
for first in range(0, len(texts), 256):
    for encoding in tokenizer.encode_batch(texts[first : first + 256], add_special_tokens=False):
        encoding.ids
print(time.monotonic() - start)
"""
DATATROVE = """
import sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
folder, tokenizer, out, workers = sys.argv[1:]
pipeline = [
    ParquetReader(folder),
    DocumentTokenizer(out, tokenizer, eos_token="<|end_of_text|>", shuffle_documents=False, batch_size=256),
]
if __name__ == "__main__":
    start = time.monotonic()
    LocalPipelineExecutor(pipeline, tasks=int(workers), workers=int(workers), logging_dir=out + "-logs").run()
    print(time.monotonic() - start)
"""
OURS = """
import sys, time
from data_pipelines.tokenize import main
if __name__ == "__main__":
    start = time.monotonic()
    code = main(sys.argv[1:])
    print(time.monotonic() - start)
    sys.exit(code)
"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_tokenise", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=60, help="of text (default: 60)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), args.megabytes * 10**6)


def measure(place: Path, num_bytes: int) -> None:
    texts = source_texts()
    save_tokenizer(train_tokenizer(some(texts, TRAINED_CHARS), VOCAB_SIZE), place / "tok")
    size, documents = write_corpus(place / "corpus", texts, num_bytes)
    print(f"{documents:,} documents, {size:,} bytes of text, {VOCAB_SIZE:,} ids", flush=True)
    rows = [["cores", "what", "s", "MB/s", "of encode_batch", "of datatrove"]]
    for cores in (1, 2):
        taken = {
            "encode_batch alone": timed(RAW, f"{place}/tok/tokenizer.json", f"{place}/corpus", cores=cores),
            "datatrove": timed(
                *(DATATROVE, f"{place}/corpus", f"{place}/tok/tokenizer.json", f"{place}/dt{cores}", str(cores)),
                cores=cores,
            ),
            "ours, tokenizers": ours(place, "tokenizers", cores),
            "ours, tiktoken": ours(place, "tiktoken", cores),
        }
        for what, seconds in taken.items():
            alone, theirs = taken["encode_batch alone"] / seconds, taken["datatrove"] / seconds
            rows.append(
                [str(cores), what, f"{seconds:.1f}", f"{size / seconds / 1e6:.2f}", f"{alone:.2f}", f"{theirs:.2f}"]
            )
        print(
            f"{cores} cores: tiktoken / tokenizers {taken['ours, tokenizers'] / taken['ours, tiktoken']:.2f}",
            flush=True,
        )
    print("\n".join(aligned(rows, words={1})))
    one, two = (content(place / f"{name}1") for name in ("tokenizers", "tiktoken"))
    print(f"shards of the two backends: {'the same bytes' if one == two else 'OTHER BYTES'}, {documents:,} documents")


def source_texts() -> Iterator[str]:
    paths = sorted(path for path in PACKAGES.rglob("*") if path.suffix in (".py", ".md", ".rst", ".pyi"))
    random.Random(0).shuffle(paths)
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text and "\0" not in text:
            yield text


def some(texts: Iterator[str], most_chars: int) -> Iterator[str]:
    while most_chars > 0 and (text := next(texts, None)):
        most_chars -= len(text)
        yield text


def write_corpus(folder: Path, texts: Iterator[str], num_bytes: int) -> tuple[int, int]:
    """Eight files of Parquet. Returns bytes of text, and documents."""
    folder.mkdir()
    chosen: list[str] = []
    size = 0
    for text in texts:
        chosen.append(text)
        size += len(text.encode())
        if size >= num_bytes:
            break
    for number in range(8):
        table = pa.table({"text": chosen[number::8], "id": [str(k) for k in range(number, len(chosen), 8)]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=64)
    return size, len(chosen)


def ours(place: Path, backend: str, cores: int) -> float:
    options = [
        "--input",
        f"{place}/corpus/*",
        "--tokenizer",
        f"{place}/tok",
        "--out",
        f"{place}/{backend}{cores}",
    ]
    return timed(OURS, *options, "--backend", backend, "--workers", str(cores), cores=cores)


def timed(code: str, *arguments: str, cores: int) -> float:
    """Seconds that the program says, on so many cores."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        environment = {**os.environ, "RAYON_NUM_THREADS": str(cores), "PYTHONPATH": os.getcwd()}
        command = [sys.executable, file.name, *arguments]
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.splitlines()[-1])


def content(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.ds*"))]


if __name__ == "__main__":
    main(sys.argv[1:])
