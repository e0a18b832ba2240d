"""Names and shapes of the tensors that a model is made of, and how other tensors fall short of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torchtitan.distributed.utils import set_spmd_backend

from train.afmoe.config import ModelConfig
from train.afmoe.moe import TRAINING_ONLY
from train.afmoe.spec import afmoe_config

MAX_PROBLEMS = 10
"""How many tensors a message names for each kind of problem: those of another model differ in their thousands."""


def model_shapes(model: ModelConfig) -> dict[str, torch.Size]:
    """Our name -> shape of every weight and selection bias, in the order of the model; allocates none of them."""
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        state = afmoe_config(model, seq_len=1).build().state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith(TRAINING_ONLY)}


def shape_problems(got: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> list[str]:
    """What keeps tensors of the shapes `got` from being those of the shapes `expected`; empty if nothing does."""
    missing = [f"{name}: is missing, expected {list(shape)}" for name, shape in expected.items() if name not in got]
    surplus = [f"{name}: is no tensor of this model, remove it" for name in got if name not in expected]
    wrong = [
        f"{name}: got shape {list(got[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in got and tuple(got[name]) != tuple(shape)
    ]
    return [*_first_few(missing), *_first_few(surplus), *_first_few(wrong)]


def _first_few(problems: list[str]) -> list[str]:
    more = len(problems) - MAX_PROBLEMS
    return problems if more <= 0 else [*problems[:MAX_PROBLEMS], f"... and {more:,} more like the last"]
