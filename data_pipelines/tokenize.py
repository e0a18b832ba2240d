"""Tokenise files: one shard each, with as many processes as there are cores.

    python -m data_pipelines.tokenize --input 'corpus/*.jsonl.gz' --tokenizer data/tok --out s3://bucket/corpus

Each input file becomes one shard, so the bytes do not depend on the number of workers; a folder without manifest.json
is not finished, and the same command goes on with the files that are still to do. To use the result:
`data=shards data.tokenizer=... data.sources.web.train=URI`.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import os
from collections.abc import Mapping
from functools import cache, partial
from typing import NamedTuple

import tokenizers
import xxhash

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, RunError, answers_errors
from data_pipelines.base.files import NoRoomError, room_in
from data_pipelines.base.progress import progress_bar
from data_pipelines.base.workers import run_in_workers
from data_pipelines.corpora.tokenized import write_manifest, write_shard
from data_pipelines.documents.content.tally import ReadOptions
from data_pipelines.documents.find import StoredFile, find_files
from data_pipelines.documents.pieces import read_documents
from data_pipelines.shards.finished import begin, forget_finished, load_finished, save_finished
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.tokenizer.encoder import TextEncoder

GOES_ON = "Finished shards are kept; the same command goes on with the others."


def tokenize_files(
    files: Mapping[str, StoredFile], tokenizer: str, uri: str, *, text_key: str = "text", workers: int = 1
) -> Manifest:
    """One shard a file, named 00000, 00001, ... in the order of `files`: document name -> file.

    Shards that an earlier call finished from the same files are kept. Raises ValueError for a folder that holds
    other shards and for what cannot be read as documents, RunError if a worker process is killed, OSError for a store.
    """
    if Manifest.exists(uri):
        raise ValueError(f"{uri} holds shards already; choose another folder or delete that one")
    encoder = TextEncoder(tokenizer)
    begin(uri)
    jobs = {
        str(file): _Job(f"{number:05}", name, file, _made_from(name, file, text_key, encoder))
        for number, (name, file) in enumerate(files.items())
    }
    finished = {job.shard: load_finished(uri, job.shard, job.made_from) for job in jobs.values()}
    records = {shard: record for shard, record in finished.items() if record}
    jobs = {label: job for label, job in jobs.items() if job.shard not in records}
    run = partial(_tokenize_file, tokenizer=tokenizer, uri=uri, text_key=text_key)
    with progress_bar(total=len(files), initial=len(records), desc="tokenise", unit="file") as bar:

        def done(_: str, record: ShardRecord) -> None:
            records[record.name] = record
            bar.update()

        if workers == 1:
            for label, job in jobs.items():
                done(label, run(job))
        else:
            run_in_workers(run, jobs, done, workers=workers, start=_work_alone)
    manifest = write_manifest(uri, encoder, [records[shard] for shard in finished])
    forget_finished(uri)
    return manifest


class _Job(NamedTuple):
    shard: str
    name: str
    file: StoredFile
    made_from: str


def _made_from(name: str, file: StoredFile, text_key: str, encoder: TextEncoder) -> str:
    """Hash of all that determines a shard's bytes; of the input its place, size and time, or its store's tag."""
    parts = (name, file.uri, file.fs.ukey(file.path), text_key, encoder.hash, str(encoder.eos_id))
    text = "\0".join((*parts, tokenizers.__version__))
    return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


def _work_alone() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process a core beats threads inside one tokenizer


def _tokenize_file(job: _Job, *, tokenizer: str, uri: str, text_key: str) -> ShardRecord:
    documents = read_documents(job.file, job.name, ReadOptions(text_key))
    record = write_shard(documents, _encoder(tokenizer), uri=uri, name=job.shard)
    save_finished(uri, record, job.made_from)
    return record


@cache  # a worker loads its tokenizer once, not once a file
def _encoder(folder: str) -> TextEncoder:
    return TextEncoder(folder, quiet=True)


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT, RunError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.tokenize", description=__doc__)
    parser.add_argument("--input", required=True, metavar="GLOB", help="text and JSONL files, path or fsspec URI")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder of a Hugging Face tokenizer")
    parser.add_argument("--out", required=True, metavar="URI", help="folder for the shards, path or fsspec URI")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field of the text in JSONL (default: text)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    args = parser.parse_args(arguments)
    files = find_files(args.input, setting="--input")
    try:
        with room_in(f"--out={args.out}"):
            manifest = tokenize_files(
                files, args.tokenizer, args.out, text_key=args.text_key, workers=max(1, args.workers)
            )
    except (RunError, NoRoomError) as error:
        raise type(error)(f"{error}. {GOES_ON}") from error
    print(f"{args.out}: {manifest.num_tokens:,} tokens in {manifest.num_documents:,} documents")
    return 0


if __name__ == "__main__":
    run_command(main, advice=GOES_ON)
