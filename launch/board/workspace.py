"""Sections of charts -> a W&B workspace. The only file that knows wandb-workspaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

from launch.board.panels import Chart, Section

AXIS = "tokens"


def workspace(sections: Sequence[Section], *, name: str, entity: str, project: str, run_id: str) -> Any:
    """Not saved yet; nothing is asked of a server. run_id: pinned, so that it is drawn among many."""
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=section.name, panels=[_plot(chart) for chart in section.charts], is_open=True)
            for section in sections
        ],
        settings=workspaces.WorkspaceSettings(x_axis=AXIS, group_by_prefix="first"),
        runset_settings=workspaces.RunsetSettings(pinned_runs=[run_id]),
    )


def save(workspace: Any, *, id: str = "", name: str = "") -> str:
    """Creates it in W&B and returns its address. id, name: of the one that it replaces there."""
    workspace._internal_id, workspace._internal_name = id, name
    workspace.save()
    return workspace.url


def as_json(workspace: Any) -> dict[str, Any]:
    """What a server would be sent."""
    return workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def _plot(chart: Chart) -> Any:
    return reports.LinePlot(title=chart.title, x=AXIS, y=list(chart.keys), log_y=chart.log_y or None)
