"""A small model as a GGUF file, from memory instead of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from tests.train.afmoe import build_model, tiny_config
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe
from train.afmoe.moe import TRAINING_ONLY
from train.formats.gguf_file import Dtype, write_gguf

SEQ_LEN = 64
TEXTS = ["the cat sat on the mat, and the dog sat on the log. " * 20, "x = 1234567\nif x > 3:\n    return x\n" * 20]


def small_config(**changes: Any) -> ModelConfig:
    """Every part of Trinity in eight layers. Rows are multiples of 32, Q8_0's block, but for the experts' down."""
    numbers: dict[str, Any] = {
        "vocab_size": 320,
        "dim": 64,
        "num_layers": 8,
        "num_dense_layers": 2,
        "head_dim": 32,
        "dense_hidden_dim": 96,
        "expert_hidden_dim": 48,
        "num_experts": 8,
        "top_k": 3,
        "sliding_window": 6,
        "global_every": 4,
    }
    return tiny_config(**{**numbers, **changes})


class MemoryReader:
    """A model as train/checkpoint/reader.py reads a checkpoint; notes how many numbers each read asked for."""

    def __init__(self, model: Afmoe):
        state = model.state_dict()
        self._state = {name: tensor.detach() for name, tensor in state.items() if not name.endswith(TRAINING_ONLY)}
        self.shapes: Mapping[str, torch.Size] = {name: tensor.shape for name, tensor in self._state.items()}
        self.reads: list[int] = []

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        tensor = self._state[name] if rows is None else self._state[name][rows]
        self.reads.append(tensor.numel())
        return tensor


def small_tokenizer(folder: Path) -> Path:
    """At most 300 ids, fewer than the model has rows."""
    save_tokenizer(train_tokenizer(TEXTS, vocab_size=300), folder)
    return folder


def write_small(folder: Path, config: ModelConfig, *, dtype: Dtype) -> tuple[Path, Afmoe]:
    """The file and the model that it is of."""
    model = build_model(config, seq_len=SEQ_LEN)
    path, tokenizer_dir = folder / "model.gguf", small_tokenizer(folder / "tokenizer")
    write_gguf(path, config, MemoryReader(model), tokenizer_dir, dtype=dtype, max_positions=SEQ_LEN)
    return path, model
