"""Where a run's figures go: metrics.jsonl, W&B, one line on the console. Rank 0 only."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

from tqdm import tqdm

from train.amounts import format_tokens
from train.errors import RunError

if TYPE_CHECKING:
    from train.config import Run


@dataclass(kw_only=True, slots=True)
class MetricsConfig:
    """The `metrics` section."""

    wandb: Literal["online", "offline", "disabled"] = "online"
    """W&B mode. `offline` writes to <run>/wandb; `wandb sync` uploads it later."""
    wandb_project: str = "trinity"
    """W&B project."""
    wandb_entity: str | None = None
    """W&B team; null: the default of your account."""
    wandb_required: bool = True
    """Whether a run stops when W&B cannot start; false: it goes on without, and says so."""
    console: bool = True
    """Whether rank 0 shows a progress line."""
    panels_every: int = 10
    """Every so-many-th step has the panels of balance; 0: none."""
    heatmap_every: int = 100
    """Every so-many-th step draws the load of every expert, <run>/loads.png; 0: none."""

    def __post_init__(self) -> None:
        for name in ("panels_every", "heatmap_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}; 0 turns it off")


EVERY_LAYER = ("by_layer", "max_violation_by_layer")
"""Keys of a row that are for the file alone: a dashboard shows groups of layers."""


class Sink(Protocol):
    """Takes one row a step."""

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """<run>/metrics.jsonl. Rows of steps after the one resumed from are dropped: they are about to be trained again."""

    def __init__(self, path: Path, *, resume_step: int):
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= resume_step]
        partial = path.with_name(path.name + ".tmp")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, allow_nan=False, default=os.fspath) + "\n")  # a picture is its path
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    """A run that was killed may have left half a line at the end."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


class WandB:
    """One W&B run for the life of a run directory: its id is kept there."""

    def __init__(self, config: MetricsConfig, *, run_dir: Path, name: str, settings: dict[str, Any]):
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

    def write(self, row: dict[str, Any]) -> None:
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


class Console:
    """A bar over the tokens of the run, and what one wants to see of the last step."""

    def __init__(self, *, tokens: int, seen: int, num_steps: int):
        self._num_steps = num_steps
        self._bar = tqdm(
            total=tokens,
            initial=seen,
            unit="tok",
            unit_scale=True,
            file=sys.stdout,
            dynamic_ncols=True,
            mininterval=bar_interval_s(),
            bar_format="{desc} |{bar:20}| {n_fmt}/{total_fmt} tokens, {remaining} left{postfix}",
        )

    def write(self, row: dict[str, Any]) -> None:
        self._bar.set_description_str(f"{row['phase']:<12} step {row['step']:>4}/{self._num_steps}", refresh=False)
        self._bar.set_postfix_str(
            f"loss {row['loss']:.3f}, grad {row['grad_norm']:.2f}, MaxVio {row['max_violation']:.2f}, "
            f"{row['tokens_per_second']:,.0f} tok/s",
            refresh=False,
        )
        self._bar.update(row["tokens"] - self._bar.n)
        if "alarm" in row:
            tqdm.write(f"WARNING: step {row['step']}: {row['alarm']}", file=sys.stdout)
        if "initial_validation" in row:
            tqdm.write(f"untrained: validation {_losses(row['initial_validation'])}", file=sys.stdout)
        if "validation" in row:
            step = f"step {row['step']}, {format_tokens(row['tokens'])} tokens"
            tqdm.write(f"{step}: validation {_losses(row['validation'])}", file=sys.stdout)

    def close(self) -> None:
        self._bar.refresh()
        self._bar.close()


def _losses(by_source: dict[str, float]) -> str:
    return ", ".join(f"{source} {loss:.3f}" for source, loss in by_source.items())


def bar_interval_s() -> float:
    """Seconds between two pictures of a progress bar: a terminal overwrites them, a file keeps them all."""
    return 0.5 if sys.stdout.isatty() else 10.0


class Sinks:
    """All sinks of a run; the same rows go to each."""

    def __init__(self, sinks: list[Sink]):
        self._sinks = sinks

    def write(self, row: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(row)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(run: Run, *, resume_step: int) -> Sinks:
    """The sinks of this rank for the steps after `resume_step`: all on rank 0, none elsewhere."""
    if os.environ["RANK"] != "0":
        return Sinks([])
    config, timeline = run.section("metrics"), run.timeline
    sinks = start_wandb(config, run_dir=run.run_dir, name=run.section("run").name, settings=run.settings)
    sinks.append(JsonLines(run.run_dir / "metrics.jsonl", resume_step=resume_step))
    if config.console:
        seen = timeline.step(resume_step + 1).first_window * timeline.seq_len
        sinks.append(Console(tokens=timeline.num_windows * timeline.seq_len, seen=seen, num_steps=timeline.num_steps))
    return Sinks(sinks)


def start_wandb(config: MetricsConfig, *, run_dir: Path, name: str, settings: dict[str, Any]) -> list[Sink]:
    """The W&B sink, or none where it is disabled. Raises RunError when it cannot start and the run may not go on."""
    if config.wandb == "disabled":
        return []
    try:
        return [WandB(config, run_dir=run_dir, name=name, settings=settings)]
    except Exception as error:
        if config.wandb_required:
            raise RunError(
                f"W&B cannot start (metrics.wandb={config.wandb}): {error}. Log in with `wandb login`, or choose "
                "metrics.wandb=offline, metrics.wandb=disabled, or metrics.wandb_required=false to go on without."
            ) from error
        print(f"WARNING: the run goes on WITHOUT W&B, which cannot start: {error}", file=sys.stderr)
        return []
