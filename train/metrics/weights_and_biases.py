"""One W&B run for the life of a run directory: rows become figures, pictures and alerts of it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.base.errors import REQUEUE_EXIT, RunError
from train.metrics.config import MetricsConfig
from train.metrics.events import Alert, History, starts
from train.metrics.follower import Follower, State
from train.metrics.row import Row
from train.metrics.wandb_files import last_logged, mend, record_files, run_id
from train.schedule.timeline import Timeline

EVERY_LAYER = ("by_layer", "max_violation_by_layer")
"""Keys of a row that are for the file alone: a dashboard shows groups of layers."""
PICTURES = ("loads",)
"""Keys of a row that are paths of pictures, which the next one overwrites."""
ALARMS = {"alarm": "experts collapsed", "spike": "spike"}
"""Keys of a row that become alerts -> the alert's title."""
AXIS = "tokens"
FIRST_ATTEMPT_S = 120.0
"""How long the first step of a run waits for W&B; its client gives up after 90 s by itself."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What W&B is told of a run beside its rows."""

    run_dir: Path
    name: str
    settings: dict[str, Any]
    """The whole resolved configuration."""
    timeline: Timeline
    history: History


class WandB:
    """A connection to the run."""

    def __init__(self, config: MetricsConfig, run: RunFacts, state: State):
        _find_home(run.run_dir)
        import wandb

        identity, phases = run_id(run.run_dir, []), phases_of(run.timeline)
        files = record_files(run.run_dir, identity)
        for path in files:
            mend(path)
        self._phases = {phase: number for number, phase in enumerate(phases, 1)}
        self._mixes = mixes_of(run.settings)
        self._run = wandb.init(
            project=config.wandb_project,
            entity=config.wandb_entity,
            name=run.name,
            id=identity,
            resume="allow",  # offline too: it tells `wandb sync` to go on behind what is there
            mode=config.wandb,
            dir=run.run_dir,
            config={**run.settings, "phases": phases, "starts": starts(run.history.events)}
            | ({"code": dict(run.history.code)} if run.history.code else {}),
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric=AXIS)
        if config.wandb == "online":
            self.logged = self._run.starting_step - 1 if self._run.resumed else 0
        else:
            newest = next(filter(None, (last_logged(path) for path in reversed(files) if path.exists())), 0)
            self.logged = max(newest, state.logged)

    def log(self, row: Row, extra: dict[str, Any], *, step: int, is_new: bool) -> None:
        """extra: further figures of the row; step: W&B's; is_new: whether this process has taken the step."""
        shown = {key: value for key, value in row.items() if key not in (*EVERY_LAYER, *PICTURES)}
        figures = {**_flatten(shown), "event/phase": self._phases.get(row["phase"])}
        figures |= {**self._mixes.get(row["phase"], {}), **extra}
        if is_new:
            figures |= {key: _picture(row[key]) for key in PICTURES if key in row}
        self._run.log(figures, step=step, commit=True)
        if is_new:
            for key in ALARMS.keys() & row.keys():
                self.alert(Alert(ALARMS[key], f"step {row['step']}: {row[key]}"))

    def alert(self, alert: Alert) -> None:
        self._run.alert(title=alert.title, text=alert.text, level="WARN")

    def finish(self, exit_code: int) -> None:
        if exit_code == REQUEUE_EXIT:
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)

    def abandon(self) -> None:
        """Without its goodbye: the client has failed, and the next connection starts another."""
        import wandb

        with suppress(Exception):
            wandb.teardown()


def _picture(path: Any) -> Any:
    import wandb

    return wandb.Image(str(path))


def _find_home(run_dir: Path) -> None:
    """Where this process has no home that it can write to (a container, a service), W&B keeps in the run directory what
    it would have kept there: without, it does not start, or prints its log among the steps."""
    if (home := os.environ.get("HOME")) and os.access(home, os.W_OK):
        return
    for kind in ("CACHE", "CONFIG", "DATA"):
        os.environ.setdefault(f"WANDB_{kind}_DIR", str(run_dir / "wandb" / "home" / kind.lower()))


def _flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"seconds": {"data": 1}} -> {"seconds/data": 1}: W&B groups panels by the part before the slash."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat.update(_flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def phases_of(timeline: Timeline) -> dict[str, dict[str, int]]:
    """Phase -> the step that it ends in, and its edge in tokens: what the configuration only implies."""
    edges = (window * timeline.seq_len for window in timeline.phase_edges)
    ends = {phase: step for step, phase in timeline.phase_end_steps.items()}
    names = (phase.name for phase in timeline.schedule.phases)
    return {name: {"last_step": ends.get(name, 0), "to_tokens": edge} for name, edge in zip(names, edges, strict=True)}


def mixes_of(settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Phase -> {"mix/SOURCE": its share, 0..1}; empty where sources are drawn in proportion to their size."""
    mix: Any = (settings.get("data") or {}).get("mix")
    if not isinstance(mix, dict):
        return {}
    return {
        phase: {f"mix/{source}": weight / sum(weights.values()) for source, weight in weights.items()}
        for phase, weights in mix.items()
    }


def catch_up(config: MetricsConfig, run: RunFacts) -> None:
    """Sends what W&B lacks of a run that has ended. Raises RunError where it cannot be reached."""
    follower = _follower(config, run, resume_step=run.timeline.num_steps)  # none of the rows is new
    if error := follower.wait_for_first_attempt(FIRST_ATTEMPT_S):
        follower.give_up()
        raise RunError(f"W&B cannot be reached (metrics.wandb={config.wandb}): {error}; try again later") from error
    exit_code = next((event["exit_code"] for event in reversed(run.history.events) if "exit_code" in event), 0)
    follower.close_within(None, exit_code)
    if not follower.is_complete:
        raise RunError("W&B did not take everything; try again later")


def start_wandb(config: MetricsConfig, run: RunFacts, *, resume_step: int) -> list[Follower]:
    """The W&B sink, or none where it is disabled.

    A run that takes its first step waits for W&B to start: raises RunError where that fails and
    metrics.wandb_required. A run that goes on does not wait, and does not stop because of W&B.
    """
    if config.wandb == "disabled":
        return []
    follower = _follower(config, run, resume_step=resume_step)
    if resume_step == 0 and (error := follower.wait_for_first_attempt(FIRST_ATTEMPT_S)) and config.wandb_required:
        follower.give_up()
        log_in = "log in with `wandb login`, choose metrics.wandb=offline, or " if config.wandb == "online" else ""
        raise RunError(
            f"W&B cannot start (metrics.wandb={config.wandb}): {str(error).rstrip('.')}; {log_in}go on without by "
            "metrics.wandb=disabled or metrics.wandb_required=false"
        ) from error
    return [follower]


def _follower(config: MetricsConfig, run: RunFacts, *, resume_step: int) -> Follower:
    return Follower(run.run_dir, resume_step, run.history, partial(WandB, config, run))
