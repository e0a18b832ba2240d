"""How fast, and in how much memory, each kind of source is read, beside datatrove's reader and the bare library.

    python -m tests.bench_sources [--megabytes 100]

One core, best of three rounds, in one run: the ratios hold, the megabytes a second are this machine's. The text is the
standard library's, cut into documents of 200 to 6,000 characters. The bare library checks nothing: no control
characters, no place of what is broken. datatrove's JSONL needs orjson, which is none of this project's packages:
without it the column is empty. "above" is what the process that reads has at its peak beyond what it has with
everything imported, of a table with one row group of all its rows too, and of one line of as many bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.readers.base import BaseDiskReader

from data_pipelines.corpora.stdlib import stdlib_corpus
from data_pipelines.documents.find import stored_file
from data_pipelines.documents.pieces import read_documents
from tests.measured import status_bytes

ROUNDS = 3
ROW_GROUP = 4_000
BATCH = 1_000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_sources", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=100, help="of text (default: 100)")
    args = parser.parse_args(arguments)
    print(f"{'source':22}{'bytes of text':>15}{'ours':>10}{'library':>10}{'datatrove':>11}{'above':>9}")
    with TemporaryDirectory() as folder:
        write(Path(folder), args.megabytes * 10**6)
        for name, library in SOURCES.items():
            path, peer = Path(folder) / name, PEERS.get(name)
            readers: list[Callable[[], Iterator[str]]] = [
                lambda path=path: map(text_of, read_documents(stored_file(str(path)), "x"))
            ]
            readers.append(lambda path=path, library=library: library(path))
            if peer and is_usable(peer, path):
                readers.append(lambda path=path, peer=peer: map(text_of, peer(path)))
            rounds = [[rate(read) for read in readers] for _ in range(ROUNDS)]
            rates = [max(each) for each in zip(*rounds, strict=True)]
            rates += [0.0] * (3 - len(rates))
            size, above = in_new_process(path)
            shown = "".join(f"{f'{one:,.0f} MB/s' if one else '':>11}" for one in rates)
            print(f"{name:22}{size:15,}{shown}{above / 2**20:6,.0f} MiB")
        for name in ("one_group.parquet", "one_line.jsonl"):
            size, above = in_new_process(Path(folder) / name)
            print(f"{name:22}{size:15,}{'':33}{above / 2**20:6,.0f} MiB")
    return 0


def is_usable(peer: Callable[[Path], Any], path: Path) -> bool:
    """Whether the packages that it reads with are installed."""
    try:
        peer(path)
    except ImportError:
        return False
    return True


def text_of(document: Any) -> str:
    return document.text


def rate(read: Callable[[], Iterator[str]]) -> float:
    """Megabytes of text a second."""
    started = time.perf_counter()
    size = sum(map(len, read()))
    return size / (time.perf_counter() - started) / 1e6


def in_new_process(path: Path) -> tuple[int, int]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(memory, path).result()


def memory(path: Path) -> tuple[int, int]:
    """(bytes of the texts, bytes of memory at the peak above those at the start)."""
    before = status_bytes("VmHWM")
    size = sum(len(document.text.encode()) for document in read_documents(stored_file(str(path)), "x"))
    return size, status_bytes("VmHWM") - before


def write(folder: Path, num_bytes: int) -> None:
    texts = list(cut(num_bytes))
    lines = "".join(json.dumps({"text": text, "id": k}, ensure_ascii=False) + "\n" for k, text in enumerate(texts))
    table = pa.table({"text": texts, "id": list(range(len(texts)))})
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 6))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (folder / "one_line.jsonl").write_text(json.dumps({"text": "x" * num_bytes}))
    pq.write_table(table, folder / "a.parquet", row_group_size=ROW_GROUP)
    pq.write_table(table, folder / "one_group.parquet", row_group_size=len(texts), use_dictionary=False)
    for name, new in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with new(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=BATCH)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for number, text in enumerate(texts):
            data = text.encode()
            member = tarfile.TarInfo(f"{number:08}.txt")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def cut(num_bytes: int) -> Iterator[str]:
    chosen = random.Random(0)
    texts = [document.text for read in stdlib_corpus().values() for document in read() if document.text]
    while num_bytes > 0:
        text = chosen.choice(texts)
        start = chosen.randrange(max(1, len(text) - 4000))
        yield (part := text[start : start + chosen.randrange(200, 6000)])
        num_bytes -= len(part)


def lines_of(open_: Callable[[Path], Any]) -> Callable[[Path], Iterator[str]]:
    return lambda path: (json.loads(line)["text"] for line in open_(path))


def of_parquet(path: Path) -> Iterator[str]:
    for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["text"]):
        yield from batch.column(0).to_pylist()


def of_file(path: Path) -> Iterator[str]:
    reader = pa.ipc.open_file(pa.OSFile(str(path)))
    for number in range(reader.num_record_batches):
        yield from reader.get_batch(number).column(0).to_pylist()


def of_stream(path: Path) -> Iterator[str]:
    for batch in pa.ipc.open_stream(pa.OSFile(str(path))):
        yield from batch.column(0).to_pylist()


def of_tar(path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive:
            data = archive.extractfile(member)
            assert data is not None, member.name
            yield data.read().decode()


def open_zst(path: Path) -> io.BufferedReader:
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), 2**17)  # type: ignore[arg-type]


def reader_of(kind: type[BaseDiskReader], **options: Any) -> Callable[[Path], Any]:
    return lambda path: kind(str(path.parent), glob_pattern=path.name, file_progress=False, **options).run()


SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "a.jsonl": lines_of(lambda path: path.open("rb")),
    "a.jsonl.gz": lines_of(gzip.open),
    "a.jsonl.zst": lines_of(open_zst),
    "a.parquet": of_parquet,
    "file.arrow": of_file,
    "stream.arrow": of_stream,
    "a.tar": of_tar,
}
PEERS = {
    "a.jsonl": reader_of(JsonlReader),
    "a.jsonl.gz": reader_of(JsonlReader),
    "a.jsonl.zst": reader_of(JsonlReader),
    "a.parquet": reader_of(ParquetReader),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
