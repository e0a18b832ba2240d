"""Exports a model of 1.2 billion parameters and measures the memory that it takes.

    python -m tests.bench_export [--folder FOLDER] [--shard-size 500MB] [--dtype bfloat16]

Two layers of Trinity Mini, one dense and one of 128 experts, over a third of its vocabulary; random weights. The
checkpoint holds each tensor in one shard, the hardest case: a stack of experts is 1.1 GB. Needs 8 GB of disk, which it
frees. Ends with status 1 where the peak exceeds three times the largest file of weights, Python and torch included.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from torch import Tensor

from data_pipelines.settings.compose import compose
from tests.measured import run_measured
from tests.train.small import mesh, save_lazily, small_settings
from train.blueprint.shapes import model_shapes
from train.config.check import check
from train.config.rundir import open_run_dir

MODEL = ["model=trinity_mini", "model.vocab_size=65536", "model.num_layers=2", "model.num_dense_layers=1"]
BOUND = 3


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where there is room (default: the system's folder for such files)")
    parser.add_argument("--shard-size", default="500MB", help="default: 500MB")
    parser.add_argument("--dtype", default="bfloat16", help="default: bfloat16")
    args = parser.parse_args(arguments)
    with TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        num_parameters = write_run(folder)
        started = time.perf_counter()
        form = ("--shard-size", args.shard_size, "--dtype", args.dtype)
        taken = run_measured("train.export", str(folder / "run"), str(folder / "hf"), *form)
        seconds = time.perf_counter() - started
        if taken.exit_code:
            sys.exit(taken.output)
        peak = taken.peak_bytes
        check_some_tensors(folder)
        sizes = [file.stat().st_size for file in (folder / "hf").glob("*.safetensors")]
    print(f"parameters     {num_parameters:,}")
    print(f"files          {len(sizes)}, {sum(sizes):,} bytes, the largest {max(sizes):,}")
    print(f"time           {seconds:.1f} s")
    print(f"peak memory    {peak:,} bytes = {peak / max(sizes):.2f} x the largest file; allowed: {BOUND}")
    return int(peak > BOUND * max(sizes))


def write_run(folder: Path) -> int:
    """A run directory with a checkpoint that never was in memory as a whole; returns its number of parameters."""
    overrides = [*small_settings(folder, model=MODEL), *mesh(shards=1, expert_ranks=1), f"run.dir={folder / 'run'}"]
    run = check(compose(overrides))
    open_run_dir(run)
    shapes = model_shapes(run.model)
    save_lazily(shapes, lambda name: random_tensor(name, shapes[name]), folder / "run/checkpoint/step-1")
    return sum(shape.numel() for shape in shapes.values())


def random_tensor(name: str, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))


def check_some_tensors(folder: Path) -> None:
    """The last expert and the last rows of the head are what was in the checkpoint."""
    ours = "layers.1.moe.routed_experts.inner_experts.w2_EDF"
    for name, expected in {
        "model.layers.1.mlp.experts.127.down_proj.weight": random_tensor(ours, torch.Size([128, 2048, 1024]))[127],
        "lm_head.weight": random_tensor("lm_head.weight", torch.Size([65536, 2048])),
    }.items():
        got = [tensors.get_tensor(name) for tensors in open_all(folder / "hf") if name in tensors.keys()]  # noqa: SIM118
        assert len(got) == 1, name
        assert torch.equal(got[0], expected.to(got[0].dtype)), name


def open_all(folder: Path) -> list:
    return [safe_open(file, framework="pt") for file in folder.glob("*.safetensors")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
