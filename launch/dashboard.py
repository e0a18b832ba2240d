"""The dashboard of a run in W&B, made by code: loss and phases, throughput, balance, optimizer, data mix, health.

    python -m launch.dashboard runs/smoke             a workspace in the run's project; where the run is offline, or
                                                      W&B cannot be reached (exit 3), what it would be, in
                                                      <run>/dashboard.json
    python -m launch.dashboard runs/smoke --online    of an offline run that `wandb sync` has uploaded

A workspace shows all runs of its project, this one pinned: comparing two runs needs no second one. <run>/dashboard.json
remembers which it is: the same command brings it up to date.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, ConfigError, RunError, answers_errors
from data_pipelines.base.files import write_whole
from launch.board.panels import Section, sections

FILE_NAME = "dashboard.json"
UNKNOWN = "your-entity"
"""Where only an account could say whose default it is."""


@answers_errors({ConfigError: CONFIG_EXIT, RunError: RUN_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m launch.dashboard", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--online", action="store_true", help="create it although the run itself is offline")
    args = parser.parse_args(arguments)
    print(make_dashboard(args.run, online=args.online))
    return 0


def make_dashboard(run_dir: Path, *, online: bool) -> str:
    """What was done, in a sentence. Raises ConfigError where `run_dir` is no run with W&B, or its file cannot be
    written; RunError where W&B cannot be reached."""
    from launch.board.facts import read_settings

    settings = read_settings(run_dir)
    metrics = settings.get("metrics") or {}
    if metrics.get("wandb") == "disabled" and not online:
        raise ConfigError([f"{run_dir}: the run has metrics.wandb=disabled, so W&B knows nothing of it"])
    identity = run_dir / "wandb_id"
    if not identity.is_file():
        raise ConfigError([f"{identity} does not exist: no start of the run has come to its first step with W&B"])
    wanted: dict[str, Any] = {
        "name": f"{(settings.get('run') or {}).get('name', run_dir.name)}: training",
        "project": metrics.get("wandb_project") or "trinity",
        "run_id": identity.read_text(encoding="utf-8").strip(),
    }
    charts = sections(source_names(settings.get("data") or {}), optimizer_names(settings.get("optimizer") or {}))
    from launch.board.workspace import as_json, save, workspace

    entity, path = metrics.get("wandb_entity"), run_dir / FILE_NAME

    def write_what_would_be() -> str:
        _write(path, as_json(workspace(charts, entity=entity or UNKNOWN, **wanted)) | _identity(_stored(path)))
        return f"nothing was created. What would be is in {path} ({_count(charts)})"

    if online or metrics.get("wandb") == "online":
        try:
            made = workspace(charts, entity=entity or default_entity(), **wanted)
            address = save(made, **_identity(_stored(path)))
            _write(path, as_json(made))
            return f"{address} ({_count(charts)})"
        except ConfigError:
            raise
        except Exception as error:  # W&B's client has as many kinds of them as ways to fail
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(
                f"W&B cannot be reached ({why}): {write_what_would_be()}; the same command creates it where "
                "`wandb login` has a key and the server answers"
            ) from error
    return (
        f"the run is offline: {write_what_would_be()}; after `wandb sync {run_dir}/wandb/offline-run-*`, "
        f"`python -m launch.dashboard {run_dir} --online` creates it"
    )


def default_entity() -> str:
    """Of the account that is logged in."""
    import wandb

    return str(wandb.Api().default_entity)


def _stored(path: Path) -> dict[str, Any]:
    """What an earlier call has left; empty where there is nothing that can be read."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _identity(stored: dict[str, Any]) -> dict[str, str]:
    """{"id": ..., "name": ...} of the workspace in W&B; empty where none was made."""
    return {key: stored[key] for key in ("id", "name")} if stored.get("id") and stored.get("name") else {}


def _write(path: Path, described: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(described, indent=2) + "\n")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written ({error})"]) from error


def _count(charts: Sequence[Section]) -> str:
    return f"{len(charts)} sections, {sum(len(section.charts) for section in charts)} charts"


def optimizer_names(optimizer: dict[str, Any]) -> list[str]:
    """Of the `optimizer` section: those in use. Older versions had no choice, and stored none."""
    return list(dict.fromkeys((optimizer.get("hidden", "muon"), optimizer.get("others", "adamw"))))


def source_names(data: dict[str, Any]) -> list[str]:
    """Of the `data` section: sources that it lists, or that its mix weighs, sorted."""
    mix = data.get("mix")
    weighed = [source for weights in mix.values() for source in weights] if isinstance(mix, dict) else []
    return sorted({*(data.get("sources") or {}), *weighed})


if __name__ == "__main__":
    run_command(main)
