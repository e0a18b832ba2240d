"""Models of a few thousand weights, on the CPU, outside of a Trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from torchtitan.distributed.utils import set_spmd_backend

from data_pipelines.base.command import CONFIGS
from train.afmoe.config import ModelConfig
from train.afmoe.decoder import Afmoe, moe_layers
from train.afmoe.moe import TRAINING_ONLY
from train.afmoe.spec import afmoe_config
from train.formats.hf_names import hf_config, is_published, pieces

# Without a padding token: transformers would give its embedding no gradient.
TOKEN_IDS: dict[str, int | None] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}


def tiny_config(**changes: Any) -> ModelConfig:
    """One dense layer, then experts; the second of each two layers is global; a window shorter than any sequence."""
    numbers: dict[str, Any] = {
        "name": "tiny",
        "vocab_size": 61,
        "dim": 24,
        "num_layers": 4,
        "num_dense_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "dense_hidden_dim": 40,
        "expert_hidden_dim": 12,
        "num_experts": 6,
        "top_k": 2,
        "route_scale": 1.5,
        "sliding_window": 5,
        "global_every": 2,
        "init_std": 0.1,  # larger than 0.5 / sqrt(dim) would be at scale, so that every part shows in the logits
        "attention": "sdpa",
    }
    return ModelConfig(**{**numbers, **changes})


def family_config(name: str) -> ModelConfig:
    """A model of configs/model."""
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    assert isinstance(settings, dict)
    return ModelConfig(**{str(key): value for key, value in settings.items()})


def build_model(config: ModelConfig, *, seq_len: int, seed: int = 0) -> Afmoe:
    """Weights at step 0, but biases that change which experts are chosen, and gains that differ."""
    set_spmd_backend("partial_dtensor")
    model = afmoe_config(config, seq_len=seq_len, seed=seed).build()
    model.init_states()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, moe in moe_layers(model):
            moe.expert_bias_E.copy_(0.3 * torch.randn(config.num_experts, generator=generator))
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def random_tokens(*shape: int, vocab_size: int = 61, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def load_in_transformers(
    model: Afmoe, config: ModelConfig, folder: Path, *, seq_len: int
) -> tuple[Any, dict[str, Any]]:
    """`model` as AfmoeForCausalLM by way of exported files, and what transformers says about their names."""
    from transformers import AfmoeForCausalLM  # seconds that ranks (rank_checks.py) need not spend

    exported = hf_config(config, max_positions=seq_len, speed=1e-3, token_ids=TOKEN_IDS, dtype="float32")
    (folder / "config.json").write_text(json.dumps(exported))
    tensors = {name: tensor.detach().clone() for name, tensor in to_hf(model.state_dict().items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded: Any = AfmoeForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    return loaded


def to_hf(state: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Our (name, tensor) pairs -> the published ones, lazily. Raises KeyError for a name that has no counterpart."""
    for name, tensor in state:
        if name.endswith(TRAINING_ONLY):
            continue
        for piece in pieces(name, tensor.shape):
            yield piece.name, tensor if piece.expert_id is None else tensor[piece.expert_id]


@torch.no_grad()
def load_published_(model: Afmoe, tensors: Mapping[str, Tensor]) -> None:
    """Fills `model` from tensors of the published layout."""
    for name, ours in model.state_dict().items():
        for piece in pieces(name, ours.shape) if is_published(name) else ():
            ours[... if piece.expert_id is None else piece.expert_id] = tensors[piece.name]
