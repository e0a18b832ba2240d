"""A run of a few thousand weights on random tokens: its settings, and a checkpoint of it without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties, TensorStorageMetadata

from data_pipelines.settings.compose import compose
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.writer import ShardWriter
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from data_pipelines.tokenizer.encoder import TextEncoder
from train.blueprint.shapes import model_shapes
from train.checkpoint.stream import write_checkpoint
from train.config.check import check
from train.config.run import Run
from train.config.rundir import open_run_dir

VOCAB_SIZE = 288
SEQ_LEN = 32
MODEL = [
    f"model.vocab_size={VOCAB_SIZE}",
    "model.dim=16",
    "model.num_layers=4",  # dense, local; two of MoE, local; one of MoE, global
    "model.num_dense_layers=1",
    "model.head_dim=8",
    "model.dense_hidden_dim=24",
    "model.expert_hidden_dim=12",
    "model.num_experts=8",
    "model.sliding_window=16",
]


def small_settings(folder: Path, *, model: Sequence[str] = MODEL, document_tokens: int = 200) -> list[str]:
    """Overrides of experiment=smoke: 4 sequences of 32 tokens a step, from shards that are written to `folder`."""
    save_tokenizer(train_tokenizer(["the cat sat on the mat. " * 20], vocab_size=270), folder / "tokenizer")
    encoder = TextEncoder(folder / "tokenizer")
    ids = np.random.default_rng(0).integers(4, 260, 20_000).tolist()
    with ShardWriter(str(folder / "shards"), "00000", "uint16") as writer:
        for number, start in enumerate(range(0, len(ids), document_tokens)):
            writer.add(f"document {number}", [*ids[start : start + document_tokens], encoder.eos_id])
    manifest = Manifest(dtype="uint16", eos_id=encoder.eos_id, tokenizer=encoder.hash, shards=(writer.record,))
    manifest.save(str(folder / "shards"))
    return [
        "experiment=smoke",
        *model,
        f"training.seq_len={SEQ_LEN}",
        "schedule.token_scale=1e-10",
        "schedule.batch=[{from_tokens: 0, sequences: 4}]",
        "data=shards",
        f"data.tokenizer={folder / 'tokenizer'}",
        f"data.sources.random.train={folder / 'shards'}",
        "data.mix=proportional",
        "validation.windows=0",
        "metrics.wandb=disabled",
        "metrics.console=false",
        f"run.dir={folder / 'run'}",
    ]


def mesh(*, replicas: int = 1, shards: int, expert_ranks: int) -> list[str]:
    return [
        f"parallelism.data_parallel_replicate_degree={replicas}",
        f"parallelism.data_parallel_shard_degree={shards}",
        f"parallelism.expert_parallel_degree={expert_ranks}",
    ]


def random_state(run: Run) -> dict[str, Tensor]:
    """Every weight and selection bias of the run's model, from a standard normal distribution."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in model_shapes(run.model).items()}


def write_run(settings: list[str], run_dir: Path) -> dict[str, Tensor]:
    """A run directory with a checkpoint of step 1; returns the tensors in it."""
    run = check(compose([*settings, *mesh(shards=1, expert_ranks=1), f"run.dir={run_dir}"]))
    open_run_dir(run)
    state = random_state(run)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    save_lazily(shapes, state.__getitem__, run_dir / "checkpoint/step-1")
    return state


def save_lazily(shapes: Mapping[str, torch.Size], make: Callable[[str], Tensor], folder: Path) -> None:
    """A checkpoint of float32 tensors, each in one shard, of which one at a time is in memory."""
    write_checkpoint(
        folder,
        {
            name: TensorStorageMetadata(
                TensorProperties(dtype=torch.float32),
                shape,
                [ChunkStorageMetadata(torch.Size([0] * len(shape)), shape)],
            )
            for name, shape in shapes.items()
        },
        lambda shard: make(shard.fqn),
        desc="checkpoint",
    )
