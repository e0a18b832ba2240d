"""Checkpoints that are complete or not there. Extends torchtitan's CheckpointManager.

torchtitan writes into `step-N` itself, takes a folder for a checkpoint once DCP's metadata lies in it, and counts
broken folders when it decides which old ones to delete. Here a checkpoint is written to `step-N.tmp`, flushed, and
renamed; only `step-N` counts, whether to load or to keep.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.checkpointer.base import MODEL
from torchtitan.tools.utils import GarbageCollection

from data_pipelines.base.errors import RunError
from data_pipelines.base.rank import is_rank_0
from train.afmoe.moe import TRAINING_ONLY
from train.checkpoint.commits import (
    check_is_checkpoint,
    commit,
    committed_steps,
    name_milestones,
    stale_steps,
)
from train.checkpoint.storage import storage_of


class Checkpoints(CheckpointManager):
    """Synchronous DCP checkpoints every `interval` steps, at each phase edge and at the end."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        milestones: dict[int, str] = field(default_factory=dict)
        """Step that ends a phase -> the phase; derived from the schedule. These checkpoints are never deleted."""
        beside: dict[str, str] = field(default_factory=dict)
        """File name -> its text: what each checkpoint says of its tensors, wherever it is taken."""
        last_step: int = 0
        """Step after which the run ends; derived from the schedule."""

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.config = config
        self._save_seconds = 0.0
        self._asked_for: int | None = None
        self.on_save: Callable[[], None] = lambda: None
        """Called before a checkpoint is saved."""

    def is_due(self, step: int) -> bool:
        """Whether `step` ends with a checkpoint, whatever happens."""
        return self.enable and self._is_regular(step, last_step=step == self.config.last_step)

    def save_after(self, step: int) -> None:
        """Makes `step` end with a checkpoint too."""
        self._asked_for = step

    def pop_save_seconds(self) -> float:
        """Time spent in saving since the last call."""
        seconds, self._save_seconds = self._save_seconds, 0.0
        return seconds

    def _should_save(self, curr_step: int, last_step: bool = False) -> bool:
        is_asked_for = self.enable and curr_step == self._asked_for and not self.load_only
        return is_asked_for or self._is_regular(curr_step, last_step)

    def _is_regular(self, step: int, last_step: bool) -> bool:
        is_milestone = step in self.config.milestones and not self.load_only
        return is_milestone or super()._should_save(step, last_step)

    @torch.no_grad()
    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if not self._should_save(curr_step, last_step):
            return False
        self.on_save()
        started = time.perf_counter()
        final = Path(self._create_checkpoint_id(curr_step))
        partial = final.with_name(final.name + ".tmp")
        if is_rank_0():
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed while it saved
        dist.barrier()
        try:
            self.dcp_save(self._flattened_model_states_sd(), str(partial), self.async_mode)
            _agree(self._try_commit(partial, final) if is_rank_0() else None)
        except (Exception, CheckpointException) as error:  # DCP's is a BaseException
            raise self._save_error(curr_step, partial, error) from error
        self._purge_stale_checkpoints()
        GarbageCollection.collect("after a checkpoint")
        self._save_seconds += time.perf_counter() - started
        return True

    def _try_commit(self, partial: Path, final: Path) -> OSError | None:
        """On rank 0: makes a written checkpoint the real one, or says why not."""
        try:
            for name, text in self.config.beside.items():
                (partial / name).write_text(text, encoding="utf-8")
            commit(partial, final)
            name_milestones(final.parent, self.config.milestones)
        except OSError as error:
            return error
        return None

    def _save_error(self, step: int, partial: Path, error: BaseException) -> RunError:
        """Frees the space of what could not be written, and says what stands."""
        if is_rank_0():
            shutil.rmtree(partial, ignore_errors=True)
        steps = committed_steps(Path(self.folder))
        stands = f"{self.folder}/step-{steps[-1]} is complete" if steps else "there is no earlier one"
        return RunError(
            f"cannot save the checkpoint of step {step} to {partial.parent}: {_root_cause(error)}; {stands}. "
            "Free some space (or mend the file system) and start the same command again."
        )

    def _load(self, step: int = -1) -> bool:
        try:
            return super()._load(step)
        except (Exception, CheckpointException) as error:
            raise self._load_error(self._find_load_step() if step == -1 else step, error) from error

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        """torchtitan's, but a Hugging Face folder is read as a checkpoint of ours; see train/formats/hf_folder.py."""
        folder = Path(checkpoint_id)
        if folder.parent == Path(self.folder):
            check_is_checkpoint(folder)
        shapes = {name: tensor.shape for name, tensor in state_dict.items() if isinstance(tensor, torch.Tensor)}
        load(state_dict, storage_reader=storage_of(folder, shapes))
        self.states[MODEL].load_state_dict(state_dict)

    def _states_to_load(self, model_only: bool) -> dict[str, Any]:
        """Weights alone come without what training keeps beside them: the balancing rule's momentum starts at 0."""
        states = super()._states_to_load(model_only)
        return {name: state for name, state in states.items() if not (model_only and name.endswith(TRAINING_ONLY))}

    def _load_error(self, step: int, error: BaseException) -> RunError:
        if step == -1:
            return RunError(
                f"cannot start from checkpoint.initial_load_path={self.initial_load_path}: {_root_cause(error)}"
            )
        earlier = [other for other in committed_steps(Path(self.folder)) if other < step]
        remedy = f"delete it to go on from step-{earlier[-1]}" if earlier else "there is no earlier one to go on from"
        return RunError(f"cannot go on from {self._create_checkpoint_id(step)}: {_root_cause(error)}; {remedy}")

    def _find_load_step(self, folder: str = "") -> int:
        steps = committed_steps(Path(folder or self.folder))
        return steps[-1] if steps else -1

    def _purge_stale_checkpoints(self) -> None:
        if not self._should_purge():
            return
        steps = committed_steps(Path(self.folder))
        for step in stale_steps(steps, keep=self.keep_latest_k, milestones=set(self.config.milestones)):
            self.purge_queue.put(self._create_checkpoint_id(step))


def _agree(error: Exception | None) -> None:
    """Raises on every rank what went wrong on rank 0."""
    errors: list[Exception | None] = [error]
    dist.broadcast_object_list(errors, src=0)
    if errors[0] is not None:
        raise errors[0]


def _root_cause(error: BaseException) -> str:
    """The innermost reason, also out of DCP's collection of every rank's failure."""
    failures = getattr(error, "failures", None)
    if failures:
        return _root_cause(next(iter(failures.values()))[0])
    if error.__cause__ is not None:
        return _root_cause(error.__cause__)
    return f"{type(error).__name__}: {error}"
