"""A run's checkpoint as a Hugging Face folder that transformers loads as AfmoeForCausalLM, or as a GGUF file.

    python -m train.export runs/smoke out --step 40 --dtype bfloat16 --shard-size 500MB
    python -m train.export runs/smoke out.gguf --format gguf --dtype q8_0

Weights go from the checkpoint to the files some rows at a time, whatever the size of model, shard and mesh. OUT appears
whole or not at all: it is written beside its place, config.json last, and renamed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from train.errors import CONFIG_EXIT, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from train.config import Run
    from train.gguf import Dtype
    from train.safetensors_file import Entry
    from train.weights import CheckpointName, CheckpointReader

DTYPES = {"hf": ("float32", "bfloat16"), "gguf": ("float32", "bfloat16", "q8_0")}

SHARD_BYTES = 5 * 10**9
"""Size of a weights file, at most; transformers' own default was 5 GB for years and every consumer takes it."""

BLOCK_BYTES = 16 * 2**20
"""Rows of a matrix that are written at a time. An expert is one piece, 38 MB of float32 in Trinity Large."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
)
"""What is copied of the tokenizer's folder: it may be that of a published model, weights and all."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    args = parser.parse_args(arguments)
    if args.dtype not in DTYPES[args.format]:
        parser.error(f"argument --dtype: {args.dtype} needs --format gguf; hf takes {' and '.join(DTYPES['hf'])}")
    try:
        if args.format == "gguf":
            export_gguf(args.run, args.out, step=args.step, dtype=args.dtype)
        else:
            export(args.run, args.out, step=args.step, dtype=args.dtype, shard_bytes=args.shard_size)
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIG_EXIT
    print(f"exported {args.run} to {args.out} ({args.dtype})")
    return 0


def parse_bytes(text: str) -> int:
    """'5GB' -> 5_000_000_000, in decimal units as transformers has them."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])B", text)
    number = float(match[1]) * 1000 ** (" KMGT".index(match[2])) if match else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number and KB, MB, GB or TB, e.g. 5GB")
    return int(number)


def export(
    run_dir: Path, out: Path, *, step: CheckpointName | None, dtype: str, shard_bytes: int = SHARD_BYTES
) -> None:
    """A folder. Raises ConfigError where there is nothing to export, OSError where OUT cannot be written."""
    from train.config import load_run
    from train.weights import open_checkpoint

    run = load_run(run_dir)
    if out.exists() and not (out / "config.json").is_file():
        raise ConfigError([f"{out} exists and is no export; choose another folder"])
    reader = open_checkpoint(run, step)
    unfinished = out.with_name(out.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _write(run, reader, unfinished, dtype=dtype, shard_bytes=shard_bytes)
        _replace_folder(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def export_gguf(run_dir: Path, out: Path, *, step: CheckpointName | None, dtype: Dtype) -> None:
    """A GGUF file. Raises as `export` does."""
    from train.config import load_run
    from train.gguf import write_gguf
    from train.weights import open_checkpoint

    run = load_run(run_dir)
    reader, tokenizer_dir = open_checkpoint(run, step), _tokenizer_dir(run)
    write_gguf(out, run.section("model"), reader, tokenizer_dir, dtype=dtype, seq_len=run.timeline.seq_len)


def _replace_folder(finished: Path, out: Path) -> None:
    """A folder cannot be renamed onto another: the old one steps aside first, and goes when the new one is in place."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(finished, out)
    shutil.rmtree(old, ignore_errors=True)


def _tokenizer_dir(run: Run) -> Path:
    from data_pipelines.prepare import prepare

    return Path(prepare(run.section("data")).tokenizer_dir)


def _write(run: Run, reader: CheckpointReader, folder: Path, *, dtype: str, shard_bytes: int) -> None:
    from train.model.hf import hf_config

    tokenizer_dir = _tokenizer_dir(run)
    index = _write_weights(run, reader, folder, dtype=dtype, shard_bytes=shard_bytes)
    for file in TOKENIZER_FILES:
        if (tokenizer_dir / file).is_file():
            shutil.copy(tokenizer_dir / file, folder / file)
    token_ids = _token_ids(tokenizer_dir)
    config = hf_config(
        run.section("model"),
        seq_len=run.timeline.seq_len,
        speed=run.section("balance").speed,
        token_ids=token_ids,
        dtype=dtype,
    )
    _write_json(folder / "generation_config.json", {**token_ids, "do_sample": True})
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", config)


def _write_weights(run: Run, reader: CheckpointReader, folder: Path, *, dtype: str, shard_bytes: int) -> dict[str, Any]:
    """Writes the files of weights; returns their index."""
    from train.model.shapes import model_shapes
    from train.safetensors_file import index_of, plan_shards, write_shard

    shards = plan_shards(_entries(model_shapes(run.section("model")), dtype=dtype), shard_bytes=shard_bytes)
    index = index_of(shards)
    with tqdm(desc="export", total=index["metadata"]["total_size"], unit="B", unit_scale=True) as bar:
        for file, shard in shards.items():
            write_shard(folder / file, shard, read=partial(_read_parts, reader), progress=bar.update)
    return index


def _entries(shapes: Mapping[str, Sequence[int]], *, dtype: str) -> Iterator[Entry]:
    """Every published tensor of a model of these shapes, in the order of the model."""
    import torch

    from train.model.hf import KEEP_FLOAT32, pieces
    from train.safetensors_file import Entry

    for name, shape in shapes.items():
        for piece in pieces(name, shape):
            kept = torch.float32 if piece.name.endswith(KEEP_FLOAT32) else getattr(torch, dtype)
            yield Entry(piece.name, piece.shape, kept, source=(name, piece.expert_id))


def _read_parts(reader: CheckpointReader, entry: Entry) -> Iterator[Tensor]:
    """The numbers of one published tensor, in order, at most BLOCK_BYTES of rows (or one expert) at a time."""
    name, expert_id = entry.source
    if expert_id is not None:
        yield reader.read(name, slice(expert_id, expert_id + 1))
        return
    num_rows = max(1, BLOCK_BYTES * entry.shape[0] // entry.nbytes)
    for start in range(0, entry.shape[0], num_rows):
        yield reader.read(name, slice(start, start + num_rows))


def _token_ids(tokenizer_dir: Path) -> dict[str, int | None]:
    """Ids of the special tokens that the tokenizer's own config names."""
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    config = tokenizer_dir / "tokenizer_config.json"
    names: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return {f"{kind}_token_id": _token_id(vocabulary, names.get(f"{kind}_token")) for kind in ("bos", "eos", "pad")}


def _token_id(vocabulary: Any, token: Any) -> int | None:
    """Older tokenizer configs write a token as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else vocabulary.token_to_id(text)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
