"""Rows as figures, pictures and alerts of one W&B run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_pipelines.base.errors import RunError
from train.metrics.config import MetricsConfig
from train.metrics.row import Row, Sink

EVERY_LAYER = ("by_layer", "max_violation_by_layer")
"""Keys of a row that are for the file alone: a dashboard shows groups of layers."""


class WandB:
    """One W&B run for the life of a run directory: its id is kept there."""

    def __init__(self, config: MetricsConfig, *, run_dir: Path, name: str, settings: dict[str, Any]):
        _find_home(run_dir)
        import wandb

        self._run = wandb.init(
            project=config.wandb_project,
            entity=config.wandb_entity,
            name=name,
            id=_wandb_id(run_dir),
            resume="allow" if config.wandb == "online" else None,
            mode=config.wandb,
            dir=run_dir,
            config=settings,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, row: Row) -> None:
        shown = {key: value for key, value in row.items() if key not in EVERY_LAYER}
        figures = {key: self._as_media(value) for key, value in _flatten(shown).items()}
        self._run.log(figures, step=row["step"])
        if "alarm" in row:
            self._run.alert(title="experts collapsed", text=row["alarm"], level="WARN")

    def _as_media(self, value: Any) -> Any:
        import wandb

        return wandb.Image(str(value)) if isinstance(value, Path) else value

    def close(self) -> None:
        self._run.finish()


def _find_home(run_dir: Path) -> None:
    """Where this process has no home that it can write to (a container, a service), W&B keeps in the run directory what
    it would have kept there: without, it does not start, or prints its log among the steps."""
    if (home := os.environ.get("HOME")) and os.access(home, os.W_OK):
        return
    for kind in ("CACHE", "CONFIG", "DATA"):
        os.environ.setdefault(f"WANDB_{kind}_DIR", str(run_dir / "wandb" / "home" / kind.lower()))


def _wandb_id(run_dir: Path) -> str:
    path = run_dir / "wandb_id"
    if not path.exists():
        path.write_text(uuid4().hex[:8], encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"seconds": {"data": 1}} -> {"seconds/data": 1}: W&B groups panels by the part before the slash."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat.update(_flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def start_wandb(config: MetricsConfig, *, run_dir: Path, name: str, settings: dict[str, Any]) -> list[Sink]:
    """The W&B sink, or none where it is disabled. Raises RunError when it cannot start and the run may not go on."""
    if config.wandb == "disabled":
        return []
    try:
        return [WandB(config, run_dir=run_dir, name=name, settings=settings)]
    except Exception as error:
        if config.wandb_required:
            log_in = "log in with `wandb login`, choose metrics.wandb=offline, or " if config.wandb == "online" else ""
            raise RunError(
                f"W&B cannot start (metrics.wandb={config.wandb}): {str(error).rstrip('.')}; {log_in}go on without by "
                "metrics.wandb=disabled or metrics.wandb_required=false"
            ) from error
        print(f"WARNING: the run goes on WITHOUT W&B, which cannot start: {error}", file=sys.stderr)
        return []
