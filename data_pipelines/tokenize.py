"""Tokenise files of any kind that is read into hashed shards, with as many processes as there are cores.

    python -m data_pipelines.tokenize --input 's3://bucket/web/**/*.parquet' --tokenizer data/tok --out s3://bucket/shards/web

Read are JSONL, Parquet, Arrow (Hugging Face `datasets` on disk), tars of text and plain text, packed or not; what is
none of these is refused with its name. The shards do not depend on the number of processes. A folder without
manifest.json is not finished: the same command keeps its finished shards and does the others. What was read, and what
was left out and why, is printed and kept in report.json beside the manifest.

To use the result: `data=shards data.tokenizer=... data.sources.web.train=URI`.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import os
import re
from collections.abc import Mapping
from typing import get_args

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, RunError, answers_errors
from data_pipelines.base.files import NoRoomError, room_in
from data_pipelines.corpora.tokenisation import BACKENDS, Settings, tokenise
from data_pipelines.documents.content.stored import StoredFile
from data_pipelines.documents.content.tally import ReadOptions, Undecodable
from data_pipelines.documents.find import find_files
from data_pipelines.shards.manifest import Manifest

GOES_ON = "Finished shards are kept; the same command goes on with the others."
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def tokenize_files(
    files: Mapping[str, StoredFile], tokenizer: str, uri: str, *, text_key: str = "text", workers: int = 1
) -> Manifest:
    """What the command does with its defaults: document name -> file. Raises what `tokenise` raises."""
    return tokenise(files, Settings(tokenizer=tokenizer, uri=uri, options=ReadOptions(text_key), workers=workers))


def num_bytes(text: str) -> int:
    """`256M` -> 268,435,456. Raises ValueError."""
    found = re.fullmatch(r"(\d+)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        raise ValueError(f"--shard-size={text}: expected bytes, such as 64M or 1G")
    return int(found[1]) * _UNITS[found[2].upper()]


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT, RunError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.tokenize", description=__doc__)
    parser.add_argument("--input", required=True, metavar="GLOB", help="files of text, path or fsspec URI")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder of a Hugging Face tokenizer")
    parser.add_argument("--out", required=True, metavar="URI", help="folder for the shards, path or fsspec URI")
    parser.add_argument(
        "--text-key", default="text", metavar="KEY", help="field or column of the text, a.b for b in a (default: text)"
    )
    parser.add_argument(
        "--undecodable",
        choices=get_args(Undecodable),
        default="error",
        help="what becomes of a document that is no text: error ends, skip leaves it out, replace puts U+FFFD",
    )
    parser.add_argument(
        "--shard-size", default="256M", metavar="BYTES", help="of tokens in a shard, about (default: 256M)"
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="auto: tiktoken, several times as fast, if it gives the same ids on a sample of the input",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    args = parser.parse_args(arguments)
    shard_bytes = num_bytes(args.shard_size)
    files = find_files(args.input, setting="--input")
    settings = Settings(
        tokenizer=args.tokenizer,
        uri=args.out,
        options=ReadOptions(args.text_key, args.undecodable),
        workers=max(1, args.workers),
        shard_bytes=shard_bytes,
        backend=args.backend,
    )
    try:
        with room_in(f"--out={args.out}"):
            manifest = tokenise(files, settings)
    except (RunError, NoRoomError) as error:
        raise type(error)(f"{error}. {GOES_ON}") from error
    print(f"{args.out}: {manifest.num_tokens:,} tokens in {manifest.num_documents:,} documents")
    return 0


if __name__ == "__main__":
    run_command(main, advice=GOES_ON)
