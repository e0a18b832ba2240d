"""A run's checkpoint as a Hugging Face folder that transformers loads as AfmoeForCausalLM.

    python -m train.export runs/smoke out --step 40 --dtype bfloat16

OUT appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from train.errors import CONFIG_EXIT, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from train.config import Run

SHARD_BYTES = 5 * 10**9
"""Size of a weights file, at most; transformers' own default was 5 GB for years and every consumer takes it."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--step", metavar="N", type=int, help="checkpoint to export (default: the last one)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32", help="default: float32")
    args = parser.parse_args(arguments)
    try:
        export(args.run, args.out, step=args.step, dtype=args.dtype)
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIG_EXIT
    print(f"exported {args.run} to {args.out} ({args.dtype})")
    return 0


def export(run_dir: Path, out: Path, *, step: int | None, dtype: str) -> None:
    """Raises ConfigError where there is nothing to export, OSError where it cannot be written."""
    from train.config import load_run
    from train.weights import load_model

    run = load_run(run_dir)
    if out.exists() and not (out / "config.json").is_file():
        raise ConfigError([f"{out} exists and is no export; choose another folder"])
    model = load_model(run, step)
    partial = out.with_name(out.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(run, model.state_dict(), partial, dtype=dtype)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(run: Run, state: dict[str, Tensor], folder: Path, *, dtype: str) -> None:
    from data_pipelines.prepare import prepare
    from train.model.hf import hf_config, to_hf

    tokenizer_dir = Path(prepare(run.section("data")).tokenizer_dir)
    _write_weights(_cast(to_hf(state.items()), dtype), folder)
    for file in sorted(tokenizer_dir.iterdir()):
        shutil.copy(file, folder / file.name)
    token_ids = _token_ids(tokenizer_dir)
    config = hf_config(
        run.section("model"),
        seq_len=run.timeline.seq_len,
        speed=run.section("balance").speed,
        token_ids=token_ids,
        dtype=dtype,
    )
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {**token_ids, "do_sample": True})


def _cast(tensors: Iterable[tuple[str, Tensor]], dtype: str) -> Iterator[tuple[str, Tensor]]:
    import torch

    from train.model.hf import KEEP_FLOAT32

    for name, tensor in tensors:
        yield name, tensor.to(torch.float32 if name.endswith(KEEP_FLOAT32) else getattr(torch, dtype)).contiguous()


def _write_weights(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Safetensors files of at most SHARD_BYTES, and the index that says which tensor is where."""
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors:
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor.clone()  # experts are views of a layer's stack, which safetensors refuses
        room -= tensor.nbytes
    weight_map, total = {}, 0
    for number, shard in enumerate(tqdm(shards, desc="export", unit="file", disable=len(shards) == 1), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


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
