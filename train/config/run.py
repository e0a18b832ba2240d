"""A run's configuration: every section, typed. A part of the program takes its own section, never the whole run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.config import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.tools.profiler import Profiler

from data_pipelines.corpora.kinds import DataConfig
from train.afmoe.config import ModelConfig
from train.balance.rules.kinds import BalanceConfig
from train.cluster.config import AnyCluster
from train.config.recompute import RecomputeConfig
from train.engine.mesh import world_size
from train.evaluation.config import ValidationConfig
from train.loss.config import LossConfig
from train.metrics.config import MetricsConfig
from train.optim.config import OptimizerConfig
from train.schedule.config import ScheduleConfig
from train.schedule.timeline import Timeline
from train.watchdog.config import WatchdogConfig


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """The `run` section."""

    name: str
    """Name of the run, in W&B and in the default folder."""
    dir: str
    """Folder of the run: config.yaml, metrics.jsonl, checkpoint/. Starting again on the same folder resumes."""
    stop_after_step: int | None = None
    """Stop, with a checkpoint, after this step; the schedule stays that of the whole run. null: run to the end."""

    def __post_init__(self) -> None:
        for setting, text in (("name", self.name), ("dir", self.dir)):
            if text.startswith("~"):
                raise ValueError(
                    f"{setting} must not begin with ~ (the shell left it as it is), got {text!r}; write $HOME"
                )
        if "://" in self.dir:
            raise ValueError(f"dir must be a folder of a file system, got {self.dir!r}; object stores hold data only")
        is_folder_name = "/" not in self.name and self.name not in (".", "..")
        if not is_folder_name or not self.name.isprintable() or self.name != self.name.strip():
            raise ValueError(f"name must do as the name of a folder, got {self.name!r}; run.dir may lie anywhere")
        if self.stop_after_step is not None and self.stop_after_step < 1:
            raise ValueError(f"stop_after_step={self.stop_after_step}: must be at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The sections of a configuration, by name. The annotations are the registry: each is validated against its own."""

    run: RunConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    balance: BalanceConfig
    loss: LossConfig
    data: DataConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    parallelism: ParallelismConfig
    checkpoint: CheckpointManager.Config
    activation_checkpoint: RecomputeConfig
    compile: CompileConfig
    comm: CommConfig
    debug: DebugConfig
    profiler: Profiler.Config
    metrics: MetricsConfig
    validation: ValidationConfig
    watchdog: WatchdogConfig
    cluster: AnyCluster


@dataclass(frozen=True, kw_only=True)
class ModelSections:
    """What says how large a model is, what of it each rank of a mesh holds, and what it takes to train it."""

    model: ModelConfig
    optimizer: OptimizerConfig
    loss: LossConfig
    training: TrainingConfig
    parallelism: ParallelismConfig
    activation_checkpoint: RecomputeConfig


@dataclass(frozen=True, kw_only=True)
class Run(Sections):
    """A configuration that passed every check, and what follows from it."""

    settings: dict[str, Any]
    """The resolved configuration as plain containers, defaults included (train/config/full.py)."""
    timeline: Timeline

    @property
    def run_dir(self) -> Path:
        return Path(self.run.dir)

    @property
    def checkpoint_dir(self) -> Path:
        return self.run_dir / self.checkpoint.folder

    @property
    def world_size(self) -> int:
        return world_size(self.parallelism)

    @property
    def seed(self) -> int:
        """Of weights and data order."""
        assert self.debug.seed is not None  # a rule refuses that
        return self.debug.seed

    @property
    def last_step(self) -> int:
        """The step after which this start of the run ends."""
        return min(self.run.stop_after_step or self.timeline.num_steps, self.timeline.num_steps)
