"""Weights out of a run's checkpoint, whole, in one process: what evaluation and export start from."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torchtitan.distributed.utils import set_spmd_backend

from train.checkpoint import committed_steps
from train.config import Run
from train.errors import ConfigError
from train.model.afmoe import Afmoe
from train.model.spec import afmoe_config


def load_model(run: Run, step: int | None = None) -> Afmoe:
    """The model at checkpoint `step` (null: the last), float32 on the CPU, in evaluation mode.

    Raises ConfigError where the run has no such checkpoint.
    """
    path = checkpoint_path(run, step)
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        model = afmoe_config(run.section("model"), seq_len=run.timeline.seq_len).build()
    model.to_empty(device="cpu")
    for block in model.layers.values():  # positions are computed, not stored
        if block.attention.rope is not None:
            block.attention.rope._init_self_buffers()
    state = model.state_dict()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is the intent
        load_checkpoint(state, checkpoint_id=str(path), no_dist=True)
    model.load_state_dict(state)
    return model.eval()


def checkpoint_path(run: Run, step: int | None) -> Path:
    """Folder of the complete checkpoint `step`, or of the last one."""
    folder = run.run_dir / run.section("checkpoint").folder
    steps = committed_steps(folder)
    if not steps:
        raise ConfigError([f"{folder} has no complete checkpoint yet"])
    if step is not None and step not in steps:
        raise ConfigError([f"{folder} has no complete checkpoint of step {step}; there are: {steps}"])
    return folder / f"step-{steps[-1] if step is None else step}"
