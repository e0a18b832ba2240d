"""Train a byte-level BPE that cuts text as Trinity's does, or verify the tokenizer of a folder.

    python -m data_pipelines.tokenizer train --input 'corpus/**/*.parquet' --out data/tok --vocab-size 200192
    python -m data_pipelines.tokenizer verify data/tok --input 'corpus/**/*.parquet' --rows 200192 --gguf model.gguf

train: from any files that are read as documents (python -m data_pipelines.tokenize), evenly from all of them. Special
tokens come first; the vocabulary has --vocab-size ids, which is the padded size that a model's embedding has too: what
the merges leave is filled with reserved special tokens. The result is a folder of Hugging Face's format.

verify: every text comes back as it was; digits are grouped in threes from the right; ids are 0, 1, ... without a gap
and fit the model's rows; tiktoken gives the same ids, or will not be used; llama.cpp gives the same ids by the exported
file. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, DAMAGE_EXIT, answers_errors


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m data_pipelines.tokenizer", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|verify", parser_class=_Action)
    train = actions.add_parser("train", help="from files of text")
    _add_input(train, required=True)
    train.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the tokenizer")
    train.add_argument("--vocab-size", type=int, default=200_192, metavar="N", help="ids in all (default: 200192)")
    train.add_argument(
        "--most-chars", type=int, default=10**9, metavar="N", help="characters that are read in all (default: 1e9)"
    )
    verify = actions.add_parser("verify", help="a folder of Hugging Face's format")
    verify.add_argument("folder", type=Path, metavar="DIR")
    _add_input(verify, required=False)
    verify.add_argument("--rows", type=int, metavar="N", help="rows of the model's embedding")
    verify.add_argument("--gguf", type=Path, metavar="FILE", help="an exported model, which llama.cpp reads")
    args = parser.parse_args(arguments)
    return _train(args) if args.action == "train" else _verify(args)


class _Action(argparse.ArgumentParser):
    """Says the same as the command itself."""

    def __init__(self, **options: Any):
        super().__init__(**options, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def _add_input(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--input", required=required, metavar="GLOB", help="files of text, path or fsspec URI")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field or column of the text")
    parser.add_argument("--undecodable", choices=("error", "skip", "replace"), default="error")


def _train(args: argparse.Namespace) -> int:
    from data_pipelines.documents.sample import sample_texts
    from data_pipelines.tokenizer.training import train_folder

    texts = sample_texts(args.input, args.text_key, args.undecodable, args.most_chars)
    print(train_folder(texts, args.out, vocab_size=args.vocab_size, most_chars=args.most_chars))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from data_pipelines.documents.sample import VERIFIED_CHARS, sample_texts
    from data_pipelines.tokenizer.check import TEXTS, check

    texts = [*TEXTS]
    if args.input:
        texts += sample_texts(args.input, args.text_key, args.undecodable, VERIFIED_CHARS)
    findings = list(check(args.folder, texts, rows=args.rows, gguf=args.gguf))
    for finding in findings:
        print(f"{'FAILED' if finding.problem else 'holds':<8}{finding.claim}: {finding.problem or finding.evidence}")
    return DAMAGE_EXIT if any(finding.problem for finding in findings) else 0


if __name__ == "__main__":
    run_command(main, advice="Nothing was written.")
