"""A run's checkpoint as a Hugging Face folder that transformers loads as AfmoeForCausalLM, or as a GGUF file.

    python -m train.export runs/smoke out --step 40 --dtype bfloat16 --shard-size 500MB
    python -m train.export runs/smoke out.gguf --format gguf --dtype q8_0

Weights go from the checkpoint to the files some rows at a time, whatever the size of model, shard and mesh. OUT appears
whole or not at all: it is written beside its place and renamed. Only what an export wrote is ever replaced.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors
from data_pipelines.base.files import whole_folder
from train.afmoe.config import MAX_SIZE
from train.formats.hf_write import is_export, json_text, strangers, token_ids_of, write_index, write_weights

if TYPE_CHECKING:
    from train.checkpoint.reader import CheckpointName
    from train.config.run import Run
    from train.formats.gguf_file import Dtype

DTYPES = {"hf": ("float32", "bfloat16"), "gguf": ("float32", "bfloat16", "q8_0")}

SHARD_BYTES = 5 * 10**9
"""Size of a weights file, at most; transformers' own default was 5 GB for years and every consumer takes it."""


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m train.export", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; with --format gguf, file to make")
    parser.add_argument("--step", metavar="STEP", help="checkpoint: 40, phase-general, ... (default: the last one)")
    parser.add_argument("--format", choices=tuple(DTYPES), default="hf", help="default: hf")
    parser.add_argument("--dtype", choices=DTYPES["gguf"], default="float32", help="default: float32; q8_0: gguf only")
    parser.add_argument(
        "--shard-size",
        metavar="SIZE",
        type=parse_bytes,
        default=SHARD_BYTES,
        help="largest file of weights, hf only (default: 5GB)",
    )
    parser.add_argument(
        "--max-positions",
        metavar="N",
        type=parse_positions,
        help="longest sequence that the export claims to be for (default: training.seq_len, or that of the weights "
        "which the run started from, whichever is longer)",
    )
    args = parser.parse_args(arguments)
    if args.dtype not in DTYPES[args.format]:
        parser.error(f"argument --dtype: {args.dtype} needs --format gguf; hf takes {' and '.join(DTYPES['hf'])}")
    if args.format == "gguf":
        export_gguf(args.run, args.out, step=args.step, dtype=args.dtype, max_positions=args.max_positions)
    else:
        export(
            args.run,
            args.out,
            step=args.step,
            dtype=args.dtype,
            shard_bytes=args.shard_size,
            max_positions=args.max_positions,
        )
    print(f"exported {args.run} to {args.out} ({args.dtype})")
    return 0


def parse_bytes(text: str) -> int:
    """'5GB' -> 5_000_000_000, in decimal units as transformers has them."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])B", text)
    number = float(match[1]) * 1000 ** (" KMGT".index(match[2])) if match else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number and KB, MB, GB or TB, e.g. 5GB")
    return int(number)


def parse_positions(text: str) -> int:
    """At most what 32-bit integers of other programs hold."""
    if not text.isdecimal() or not 0 < int(text) < MAX_SIZE:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of 1 to {MAX_SIZE - 1}")
    return int(text)


def export(
    run_dir: Path,
    out: Path,
    *,
    step: CheckpointName | None,
    dtype: str,
    shard_bytes: int = SHARD_BYTES,
    max_positions: int | None = None,
) -> None:
    """A folder. max_positions: None for the longest sequence of this run and of the weights that it started from.

    Raises ConfigError where there is nothing to export, OSError where OUT cannot be written.
    """
    from train.blueprint.shapes import model_shapes
    from train.checkpoint.initial import positions_of
    from train.checkpoint.reader import open_checkpoint
    from train.checkpoint.tokenizer import copy_tokenizer
    from train.config.check import load_run

    run, out = load_run(run_dir), out.resolve()  # a link stays one
    _check_replaceable(out)
    reader = open_checkpoint(run.checkpoint_dir, run.model, step)
    tokenizer_dir = _tokenizer_dir(run, reader.folder)
    with whole_folder(out) as unfinished:
        index = write_weights(reader, model_shapes(run.model), unfinished, dtype=dtype, shard_bytes=shard_bytes)
        copy_tokenizer(tokenizer_dir, unfinished)
        positions = max_positions or max(run.timeline.seq_len, positions_of(reader.folder))
        configs = _configs(run, tokenizer_dir, dtype=dtype, max_positions=positions)
        for name, content in configs.items():
            (unfinished / name).write_text(json_text(content), encoding="utf-8")
        write_index(unfinished, index)
        _check_replaceable(out)  # again: it took a while


def _check_replaceable(out: Path) -> None:
    """Raises ConfigError where something would be lost: all that goes is what an export wrote, as it wrote it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_export(out):
        raise ConfigError([f"{out} exists and is no export of this program; choose another folder, or remove that one"])
    if added := strangers(out):
        raise ConfigError(
            [
                f"{out} is an export of this program in which {', '.join(added)} was added or changed since; move that "
                "away, or choose another folder"
            ]
        )


def export_gguf(
    run_dir: Path, out: Path, *, step: CheckpointName | None, dtype: Dtype, max_positions: int | None = None
) -> None:
    """A GGUF file. Raises as `export` does."""
    from train.checkpoint.initial import positions_of
    from train.checkpoint.reader import open_checkpoint
    from train.config.check import load_run
    from train.formats.gguf_file import write_gguf

    run, out = load_run(run_dir), out.resolve()
    reader = open_checkpoint(run.checkpoint_dir, run.model, step)
    tokenizer_dir = _tokenizer_dir(run, reader.folder)
    positions = max_positions or max(run.timeline.seq_len, positions_of(reader.folder))
    write_gguf(out, run.model, reader, tokenizer_dir, dtype=dtype, max_positions=positions)


def _tokenizer_dir(run: Run, checkpoint: Path) -> Path:
    """The one that the run has kept; runs of versions until 87358bc kept none, and it may still lie with their data."""
    from data_pipelines.corpora.preparation import find_tokenizer
    from train.checkpoint.tokenizer import FOLDER, check_hash, has_tokenizer

    kept = run.run_dir / FOLDER
    if not has_tokenizer(kept):
        try:
            kept = find_tokenizer(run.data)
        except (ValueError, OSError) as error:
            raise ConfigError(
                [f"{kept}: the run has kept no tokenizer, and with its data there is none ({error}); put it there"]
            ) from error
    check_hash(checkpoint, kept)
    return kept


def _configs(run: Run, tokenizer_dir: Path, *, dtype: str, max_positions: int) -> dict[str, dict[str, Any]]:
    """File name -> content."""
    from train.formats.hf_names import hf_config

    token_ids = token_ids_of(tokenizer_dir)
    config = hf_config(
        run.model, max_positions=max_positions, speed=run.balance.speed, token_ids=token_ids, dtype=dtype
    )
    return {"generation_config.json": {**token_ids, "do_sample": True}, "config.json": config}


if __name__ == "__main__":
    run_command(main, first_words="train.export: the engine takes some seconds to load")
