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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.stateful import Stateful
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.checkpointer.base import MODEL
from torchtitan.tools.utils import GarbageCollection

from data_pipelines.base.errors import RunError
from data_pipelines.base.files import flush
from data_pipelines.base.rank import is_rank_0
from train.afmoe.moe import TRAINING_ONLY
from train.checkpoint.commits import (
    check_is_checkpoint,
    commit,
    committed_steps,
    name_milestones,
    newest_step,
    stale_steps,
)
from train.checkpoint.load import load
from train.checkpoint.save import Saver, Written, write_directory
from train.checkpoint.storage import storage_of
from train.engine.together import LostRankError, from_rank_0, innermost, on_all_ranks, to_rank_0


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
        timeout_s: float = 3600.0
        """How long ranks wait for one that saves or reads: longer than the watchdog, which says who it is."""

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.config = config
        self._save_seconds = 0.0
        self._asked_for: int | None = None
        self._saver = Saver()
        self.group = cast(dist.ProcessGroup, dist.new_group(timeout=timedelta(seconds=config.timeout_s)))
        self.on_save: Callable[[], None] = lambda: None
        """Called before a checkpoint is saved."""
        self.on_load: Callable[[Path], None] = lambda _: None
        """Called on rank 0 with the folder of a checkpoint of this run, before it is loaded; may refuse it."""
        self.beside = dict(config.beside)

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
        unfinished = final.with_name(final.name + ".tmp")
        try:
            states = _state_dicts(self._flattened_model_states_sd())
            from_rank_0(partial(_make_empty, unfinished), self.group)
            own = on_all_ranks(partial(self._saver.write_own, states, unfinished), self.group)
            written = to_rank_0(own, self.group)
            from_rank_0(partial(self._commit, unfinished, final, states, written), self.group)
        except LostRankError:
            raise
        except Exception as error:
            raise self._save_error(curr_step, unfinished, error) from error
        self._purge_stale_checkpoints()
        GarbageCollection.collect("after a checkpoint")
        self._save_seconds += time.perf_counter() - started
        return True

    def _commit(self, unfinished: Path, final: Path, states: dict[str, Any], written: list[Written]) -> None:
        """On rank 0: makes a written checkpoint the real one."""
        write_directory(states, unfinished, written)
        for name, text in self.beside.items():
            (unfinished / name).write_text(text, encoding="utf-8")
            flush(unfinished / name)
        commit(unfinished, final)
        name_milestones(final.parent, self.config.milestones)

    def _save_error(self, step: int, unfinished: Path, error: Exception) -> RunError:
        """Frees the space of what could not be written, and says what stands."""
        if is_rank_0():
            shutil.rmtree(unfinished, ignore_errors=True)
        steps = committed_steps(Path(self.folder))
        stands = f"{self.folder}/step-{steps[-1]} is complete" if steps else "there is no earlier one"
        remedy = (
            "Free some space (or mend the file system) and start" if isinstance(innermost(error), OSError) else "Start"
        )
        return RunError(
            f"cannot save the checkpoint of step {step} to {unfinished.parent}: {_reason(error)}; {stands}. "
            f"{remedy} the same command again."
        )

    def _load(self, step: int = -1) -> bool:
        if step == -1:  # as rank 0 sees it: what a file system lists may be old elsewhere
            step = from_rank_0(lambda: newest_step(Path(self.folder)) or -1, self.group)
        if step != -1:
            from_rank_0(lambda: self.on_load(Path(self._create_checkpoint_id(step))), self.group)
        try:
            return super()._load(step)
        except LostRankError:
            raise
        except Exception as error:
            raise self._load_error(step, error) from error

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        """torchtitan's, but a Hugging Face folder is read as a checkpoint of ours; see train/formats/hf_folder.py."""
        folder = Path(checkpoint_id)
        if folder.parent == Path(self.folder):
            check_is_checkpoint(folder)
        shapes = {name: tensor.shape for name, tensor in state_dict.items() if isinstance(tensor, torch.Tensor)}
        states = _state_dicts(state_dict)
        load(states, partial(storage_of, folder, shapes), self.group)
        for name, value in state_dict.items():
            if isinstance(value, Stateful):
                value.load_state_dict(states[name])
        self.states[MODEL].load_state_dict(states)

    def _states_to_load(self, model_only: bool) -> dict[str, Any]:
        """Weights alone come without what training keeps beside them: the balancing rule's momentum starts at 0."""
        states = super()._states_to_load(model_only)
        return {name: state for name, state in states.items() if not (model_only and name.endswith(TRAINING_ONLY))}

    def _load_error(self, step: int, error: Exception) -> RunError:
        if step == -1:
            return RunError(
                f"cannot start from checkpoint.initial_load_path={self.initial_load_path}: {_reason(error)}"
            )
        earlier = [other for other in committed_steps(Path(self.folder)) if other < step]
        remedy = f"delete it to go on from step-{earlier[-1]}" if earlier else "there is no earlier one to go on from"
        return RunError(f"cannot go on from {self._create_checkpoint_id(step)}: {_reason(error)}; {remedy}")

    def _find_load_step(self, folder: str = "") -> int:
        """torchtitan asks where `_load` has found none."""
        return -1

    def _purge_stale_checkpoints(self) -> None:
        if not self._should_purge():
            return
        steps = committed_steps(Path(self.folder))
        for step in stale_steps(steps, keep=self.keep_latest_k, milestones=set(self.config.milestones)):
            self.purge_queue.put(self._create_checkpoint_id(step))


def _state_dicts(states: dict[str, Any]) -> dict[str, Any]:
    """Tensors as they are, optimizers, schedule and data by their state."""
    return {name: value.state_dict() if isinstance(value, Stateful) else value for name, value in states.items()}


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed while it saved
    folder.mkdir(parents=True)


def _reason(error: BaseException) -> str:
    reason = innermost(error)
    return f"{type(reason).__name__}: {reason}"
