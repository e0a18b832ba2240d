"""The run directory: what a run is, on disk. Starting again on it resumes; another meaning is refused.

It binds from the first step on: until then nothing is lost, and a start that failed can be corrected. Its config.yaml
says that it is one: in a folder without, what a start would write over is somebody's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import write_whole
from data_pipelines.base.rank import is_rank_0
from train.checkpoint.commits import committed_steps
from train.checkpoint.rewind import needs_rewind
from train.config.binding import is_bound, is_edited
from train.config.full import completed, read_stored, with_mix
from train.config.run import Run
from train.metrics.jsonl import CUT, FILE_NAME, read_rows

WRITTEN = ("plan.json", "tokenizer", FILE_NAME, CUT, "loads.png", "report.png", "wandb_id", "*/step-*", "rewound-*")
"""What a run writes over, or goes on from, in its folder. Patterns of paths; logs are only added to."""


def open_run_dir(run: Run) -> None:
    """Makes the folder, or checks that what is there is this run. Raises ConfigError; changes nothing then."""
    check_run_dir(run)
    try:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        if is_rank_0():  # which alone knows whether another job trains here
            write_whole(run.run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(run.settings)))
    except OSError as error:
        raise _not_writable(run.run_dir, error) from error


def check_run_dir(run: Run) -> None:
    """Raises ConfigError where the run cannot start in its folder, because of what is there; changes nothing."""
    try:
        _check_writable(run.run_dir)
    except OSError as error:
        raise _not_writable(run.run_dir, error) from error
    checkpoint = run.settings["checkpoint"]
    settings = _settings_of_the_run_in(run.run_dir)
    if settings and has_results(run.run_dir):
        _check_same_run(settings, run.settings, run.run_dir)
        _check_nothing_is_lost(settings["checkpoint"], checkpoint, run.run_dir)
    if checkpoint["load_step"] != -1:
        needs_rewind(run.run_dir, run.run_dir / checkpoint["folder"], checkpoint["load_step"])


def _settings_of_the_run_in(run_dir: Path) -> dict[str, Any] | None:
    """Its full settings, or None where no run has begun. Raises ConfigError for a folder that is not a run's."""
    if (run_dir / "config.yaml").exists():
        try:
            return stored_settings(run_dir)
        except ConfigError as error:
            remedy = "the file is not written over: restore it, move it away, or choose another run.dir"
            raise ConfigError([f"{problem}; {remedy}" for problem in error.problems]) from error
    if there := sorted({path.relative_to(run_dir).parts[0] for name in WRITTEN for path in run_dir.glob(name)}):
        raise ConfigError(
            [
                f"run.dir={run_dir}: has {', '.join(there)}, but no config.yaml of the run that they are of; restore "
                "it, or choose another run.dir"
            ]
        )
    return None


def _check_writable(run_dir: Path) -> None:
    """Raises OSError where `run_dir`, or the nearest of the folders above it that exists, takes no files."""
    nearest = next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write to {nearest}")


def _not_writable(run_dir: Path, error: OSError) -> ConfigError:
    return ConfigError([f"run.dir={run_dir}: cannot be written ({error}); choose another folder"])


def stored_settings(run_dir: Path) -> dict[str, Any]:
    """The full settings of the run in a folder. Versions until 87358bc stored no defaults: those are filled in.

    Raises ConfigError with each key of its config.yaml that this version cannot read.
    """
    stored = read_stored(run_dir)
    try:
        return completed(stored)
    except ConfigError as error:
        path = run_dir / "config.yaml"
        raise ConfigError([f"{path}: {problem}; this version cannot read it" for problem in error.problems]) from error


def has_results(run_dir: Path) -> bool:
    """A finished step, or a checkpoint where somebody has taken the rows away."""
    rows = run_dir / "metrics.jsonl"
    return (rows.is_file() and rows.stat().st_size > 0) or any(run_dir.glob("*/step-*"))


def _check_nothing_is_lost(stored: Any, checkpoint: Any, run_dir: Path) -> None:
    """A run goes on from its last checkpoint, or, before there should be one, from the beginning; never by mistake."""
    before = committed_steps(run_dir / stored["folder"])
    found = committed_steps(run_dir / checkpoint["folder"]) if checkpoint["enable"] else []
    setting = f"checkpoint.folder={checkpoint['folder']}" if checkpoint["enable"] else "checkpoint.enable=false"
    if max(before, default=0) > max(found, default=0):
        raise ConfigError(
            [
                f"{setting}: the run in {run_dir} has checkpoints in {stored['folder']}/ up to step {before[-1]}, "
                "which would not be found: it would lose steps; put the setting back, or choose another run.dir"
            ]
        )
    if found and not is_rank_0():
        return  # whether all its rows are sound need not be read by thousands of ranks
    last_row = _last_row(run_dir)
    if not found and last_row > stored["interval"]:
        raise ConfigError(
            [
                f"{setting}: the run in {run_dir} has rows up to step {last_row} and no checkpoint: it would begin "
                "anew; restore its checkpoints, choose another run.dir, or move its metrics.jsonl away"
            ]
        )


def _last_row(run_dir: Path) -> int:
    """Step of the last whole row, or 0. Raises ConfigError for a damaged file: its rows would be lost too."""
    try:
        rows = read_rows(run_dir)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    return rows[-1]["step"] if rows else 0


def _check_same_run(stored: Any, settings: dict[str, Any], run_dir: Path) -> None:
    problems = [
        f"{path}: is {new!r} now, but the run in {run_dir} was started with {old!r}; "
        "put it back to go on with that run, or choose another run.dir (or run.name)"
        for path, old, new in changes(with_mix(stored), with_mix(settings))
        if is_bound(path) and not is_edited(path, settings)
    ]
    if problems:
        raise ConfigError(problems)


def check_same_start(first: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises ConfigError where this rank was started with other settings than rank 0: by hand, on several nodes."""
    if differing := changes(first, own):
        raise ConfigError(
            [
                f"{path}: rank 0 was started with {old!r}, another with {new!r}; give the same command on every node"
                for path, old, new in differing
            ]
        )


def changes(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every leaf that differs; a key that is missing counts as None."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            change
            for key in keys
            for change in changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [(path, old, new)]
