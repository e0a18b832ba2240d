"""Weights that a run starts from: `checkpoint.initial_load_path`, a checkpoint or a Hugging Face folder.

A run that starts so begins at step 0 of its own schedule, with fresh optimizers; of the balancing rule it takes the
selection biases, not the momentum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data_pipelines.base.errors import ConfigError
from train.afmoe.config import ModelConfig
from train.blueprint.shapes import model_shapes, shape_problems
from train.checkpoint.commits import is_checkpoint
from train.checkpoint.reader import CheckpointReader
from train.formats.hf_folder import PublishedStorage, published_model
from train.formats.hf_names import contradictions


def check_initial(folder: Path, model: ModelConfig) -> None:
    """Raises ConfigError with everything that keeps a run of `model` from starting at `folder`; reads no weight."""
    if not is_checkpoint(folder) and not (folder / "config.json").is_file():
        raise ConfigError(
            [
                f"checkpoint.initial_load_path={folder}: neither a checkpoint (a folder with .metadata, such as "
                "runs/smoke/checkpoint/step-114) nor a Hugging Face folder (with config.json)"
            ]
        )
    problems = [problem for theirs in _architectures(folder) for problem in contradictions(theirs, model)]
    if not problems and is_checkpoint(folder):
        problems = shape_problems(CheckpointReader(folder).shapes, model_shapes(model))
    if problems:
        raise ConfigError([f"checkpoint.initial_load_path={folder}: {problem}" for problem in problems])
    if not is_checkpoint(folder):
        PublishedStorage(folder, model_shapes(model))


def _architectures(folder: Path) -> list[ModelConfig]:
    """What is known of the architecture besides its shapes: from config.json, or from the run of a checkpoint."""
    if (folder / "config.json").is_file():
        return [published_model(folder)]
    config = folder.parent.parent / "config.yaml"  # <run>/checkpoint/step-N
    if not config.is_file():
        return []
    settings: Any = OmegaConf.to_container(OmegaConf.load(config))
    try:
        return [ModelConfig(**settings["model"])]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError([f"{config}: cannot be read by this version ({error})"]) from error
