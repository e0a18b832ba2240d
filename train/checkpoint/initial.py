"""Weights that a run starts from: `checkpoint.initial_load_path`, a checkpoint or a Hugging Face folder.

A run that starts so begins at step 0 of its own schedule, with fresh optimizers; of the balancing rule it takes the
selection biases, not the momentum.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data_pipelines.base.errors import ConfigError
from train.afmoe.config import ModelConfig
from train.blueprint.shapes import model_shapes, shape_problems
from train.checkpoint.commits import is_checkpoint
from train.checkpoint.reader import CheckpointReader
from train.formats.hf_folder import CONFIG, PublishedStorage, published_model
from train.formats.hf_names import contradictions


def check_initial(folder: Path, model: ModelConfig) -> None:
    """Raises ConfigError with everything that keeps a run of `model` from starting at `folder`; reads no weight."""
    if not is_checkpoint(folder) and not (folder / CONFIG).is_file():
        raise ConfigError(
            [
                f"checkpoint.initial_load_path={folder}: neither a checkpoint (a folder with .metadata, such as "
                "runs/smoke/checkpoint/step-114) nor a Hugging Face folder (with config.json)"
            ]
        )
    theirs = described_model(folder)
    problems = [problem for problem in (contradictions(theirs, model) if theirs else [])]
    if not problems and is_checkpoint(folder):
        problems = shape_problems(CheckpointReader(folder).shapes, model_shapes(model))
    if problems:
        raise ConfigError([f"checkpoint.initial_load_path={folder}: {problem}" for problem in problems])
    if not is_checkpoint(folder):
        PublishedStorage(folder, model_shapes(model))


def positions_of(folder: Path | None) -> int:
    """The longest sequence that the weights in a folder are meant for; 0 where that is not known."""
    described = described_model(folder) if folder else None
    return described.max_seq_len if described else 0


def described_model(folder: Path) -> ModelConfig | None:
    """What is known, besides shapes, of the architecture of the weights in a folder: from the config.json beside them,
    or from the run of a checkpoint. Its max_seq_len is the longest sequence that the weights are meant for.

    None for a checkpoint of an older version that was taken out of its run.
    """
    if (folder / CONFIG).is_file():
        return published_model(folder)
    config = folder.parent.parent / "config.yaml"  # <run>/checkpoint/step-N
    if not config.is_file():
        return None
    settings: Any = OmegaConf.to_container(OmegaConf.load(config))
    try:
        model, seq_len = ModelConfig(**settings["model"]), settings["training"]["seq_len"]
        origin = settings["checkpoint"].get("initial_load_path")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError([f"{config}: cannot be read by this version ({error})"]) from error
    return replace(model, max_seq_len=max(seq_len, positions_of(Path(origin) if origin else None)))
