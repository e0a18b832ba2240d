"""Files -> a folder of shards with its manifest and a report, by any number of processes.

split into jobs (jobs.py) -> keep what is finished -> each job in a process: read, encode, write -> manifest, report
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from multiprocessing import get_context
from threading import Event, Thread
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from data_pipelines.base.progress import progress_bar
from data_pipelines.base.workers import run_each
from data_pipelines.corpora.jobs import PIECES_IN_SHARD, Job, jobs_of
from data_pipelines.corpora.tokenized import write_manifest, write_shards
from data_pipelines.documents import Document
from data_pipelines.documents.content.stored import Piece, StoredFile
from data_pipelines.documents.content.tally import ReadOptions, Tally
from data_pipelines.documents.pieces import read_piece, split
from data_pipelines.shards.finished import Finished, begin, forget_finished, load_finished, save_finished
from data_pipelines.shards.manifest import Manifest, join
from data_pipelines.shards.storage import locate
from data_pipelines.tokenizer.encoder import Backend, TextEncoder

Choice: TypeAlias = Literal["auto", "tokenizers", "tiktoken"]
BACKENDS: tuple[Choice, ...] = get_args(Choice)
REPORT = "report.json"
SAMPLED_PIECES, SAMPLED_CHARS = 8, 2**18
"""How much of the input tiktoken must agree on: the beginnings of pieces that are spread over it."""
TICK_S = 0.5


class Settings(NamedTuple):
    """What determines the shards, and how many processes make them."""

    tokenizer: str
    uri: str
    options: ReadOptions = ReadOptions()
    workers: int = 1
    shard_bytes: int = 2**28
    """Of tokens in a shard, and of input in a job, about."""
    backend: Choice = "auto"


def tokenise(files: Mapping[str, StoredFile], settings: Settings) -> Manifest:
    """document name -> file. Shards that an earlier call finished from the same files are kept.

    Raises ValueError for a folder that holds other shards and for what cannot be read as documents, RunError if a
    process is killed, OSError for a store.
    """
    uri = settings.uri
    if Manifest.exists(uri):
        raise ValueError(f"{uri} holds shards already; choose another folder or delete that one")
    encoder = TextEncoder(settings.tokenizer)
    pieces = split(files, settings.options, -(-settings.shard_bytes // PIECES_IN_SHARD))
    backend = choose_backend(encoder, pieces, settings)
    jobs = jobs_of(pieces, encoder, settings.options, settings.shard_bytes)
    with begin(uri):
        done = {job.shard: load_finished(uri, job.shard, job.made_from) for job in jobs}
        finished = {shard: one for shard, one in done.items() if one}
        _work(jobs, finished, settings, encoder.backend)
        in_order = [finished[job.shard] for job in jobs]
        _report(uri, in_order, backend)  # first: a folder with a manifest is complete
        manifest = write_manifest(uri, encoder, [shard for one in in_order for shard in one.shards])
        forget_finished(uri, keep={shard.name for shard in manifest.shards})
    return manifest


def choose_backend(encoder: TextEncoder, pieces: list[Piece], settings: Settings) -> str:
    """Lets `encoder` go fast where it may; returns what is used, and why. Raises ValueError where tiktoken was asked
    for and does not give the same ids."""
    if settings.backend == "tokenizers":
        return "tokenizers, as asked for"
    sample = list(_sample(pieces, settings.options))
    why_not = encoder.go_fast(sample)
    if why_not and settings.backend == "tiktoken":
        raise ValueError(f"--backend=tiktoken: {settings.tokenizer}: {why_not}; take --backend=tokenizers")
    if why_not:
        return f"tokenizers: tiktoken cannot be used, {why_not}"
    return f"tiktoken: the same ids as tokenizers in {len(sample):,} documents, {sum(map(len, sample)):,} characters"


def _sample(pieces: list[Piece], options: ReadOptions) -> Iterator[str]:
    step = max(1, len(pieces) // SAMPLED_PIECES)
    for piece in pieces[::step]:
        num_chars = 0
        for document in read_piece(piece, options, Tally()):
            yield document.text[:SAMPLED_CHARS]
            num_chars += len(document.text)
            if num_chars >= SAMPLED_CHARS:
                break


def _work(jobs: list[Job], finished: dict[str, Finished], settings: Settings, backend: Backend) -> None:
    """Does the jobs that are not in `finished`, and puts them there."""
    to_do = {f"{job} (shard {job.shard})": job for job in jobs if job.shard not in finished}
    workers = min(settings.workers, len(to_do)) or 1
    threads = max(1, settings.workers // workers)
    run = partial(_do, settings=settings, backend=backend, threads=threads)
    counters = _Counters(get_context("spawn").Value("q"), get_context("spawn").Value("q"))

    def done(_: str, one: Finished) -> None:
        finished[one.shards[0].name] = one

    kept = sum(job.num_bytes for job in jobs if job.shard in finished)
    total = kept + sum(job.num_bytes for job in to_do.values())
    with (
        progress_bar(total=total, initial=kept, desc="tokenise", unit="B", unit_scale=True, unit_divisor=1000) as bar,
        _shown(bar, counters),
    ):
        _count_on(counters)  # where the jobs are done in this process
        run_each(run, to_do, done, workers=workers, start=partial(_begin_worker, threads, counters))


class _Counters(NamedTuple):
    """Shared by all processes."""

    num_bytes: Any
    num_tokens: Any


_counters: _Counters | None = None


def _count_on(counters: _Counters) -> None:
    global _counters
    _counters = counters


def _begin_worker(threads: int, counters: _Counters) -> None:
    """Where processes are as many as cores, a process a core beats threads inside one tokenizer; where jobs are fewer,
    the cores that are left help those that work."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    _count_on(counters)


@contextmanager
def _shown(bar: Any, counters: _Counters) -> Iterator[None]:
    """Draws the counters while the block works."""
    ended = Event()

    def draw() -> None:
        before = 0
        while True:
            is_last = ended.wait(TICK_S)
            now = counters.num_bytes.value
            bar.set_postfix_str(
                f"{counters.num_tokens.value / max(bar.format_dict['elapsed'], 1e-9):,.0f} tokens/s", False
            )
            bar.update(now - before)
            before = now
            if is_last:
                return

    thread = Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _do(job: Job, *, settings: Settings, backend: Backend, threads: int) -> Finished:
    encoder, tally = _encoder(settings.tokenizer, backend, threads), Tally()
    records = write_shards(
        _read(job, settings.options, tally),
        encoder,
        uri=settings.uri,
        name=job.shard,
        most_bytes=settings.shard_bytes,
        progress=lambda _, num_tokens: _add(num_tokens=num_tokens),
    )
    finished = Finished(job.made_from, tuple(records), asdict(tally))
    save_finished(settings.uri, job.shard, finished)
    return finished


def _read(job: Job, options: ReadOptions, tally: Tally) -> Iterator[Document]:
    for piece in job.pieces:
        yield from read_piece(piece, options, tally)
        _add(num_bytes=piece.num_bytes)


def _add(*, num_bytes: int = 0, num_tokens: int = 0) -> None:
    if _counters:
        with _counters.num_bytes.get_lock():
            _counters.num_bytes.value += num_bytes
            _counters.num_tokens.value += num_tokens


@cache  # a worker loads its tokenizer once, not once a job
def _encoder(folder: str, backend: Backend, threads: int) -> TextEncoder:
    encoder = TextEncoder(folder, quiet=True, threads=threads)
    if backend == "tiktoken":
        problem = encoder.go_fast([])  # that it gives the same ids was seen before
        assert problem is None, problem
    return encoder


def _report(uri: str, finished: list[Finished], backend: str) -> None:
    """report.json, and the same in lines."""
    tally = Tally()
    for one in finished:
        tally += Tally(**one.tally)
    facts = {
        "backend": backend,
        "shards": sum(len(one.shards) for one in finished),
        "tokens": sum(shard.tokens for one in finished for shard in one.shards),
        **{name: count for name, count in asdict(tally).items() if not name.startswith("_")},
    }
    fs, folder = locate(uri)
    fs.pipe_file(join(folder, REPORT), json.dumps(facts, indent=1).encode())
    print("\n".join([f"{backend}", *tally.report()]))
