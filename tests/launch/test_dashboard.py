"""launch/dashboard.py: the workspace that is made, and that its charts show what a run has."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from launch import dashboard
from launch.board.panels import OF_LAYERS, sections
from tests.train.metrics.wandb_server import wandb_server
from train.balance.panels import balance_panels, router_panels
from train.metrics.row import RATE, Row, Seconds
from train.optim.config import OPTIMIZERS

SETTINGS = {
    "run": {"name": "mine"},
    "data": {"sources": {"web": {}, "code": {}}},
    "metrics": {"wandb": "offline", "wandb_project": "trinity-smoke", "wandb_entity": None},
}
MARKS = {"event/phase", "event/start", "event/requeue", "event/rewind"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    (tmp_path / "wandb_id").write_text("abcd1234")
    return tmp_path


def test_every_chart_shows_keys_that_a_run_logs() -> None:
    import torch

    counts = torch.ones(1, 4)
    panels = balance_panels(counts, bias_LE=counts, change_LE=counts, previous_LE=counts)
    panels |= router_panels(torch.ones(1, 3), torch.ones(1), tokens=4, num_experts=4)
    assert set(OF_LAYERS) <= set(panels)
    known = {*Row.__annotations__, *MARKS, "mfu", "tokens_per_second"}
    known |= {f"seconds/{part}" for part in Seconds.__annotations__}
    known |= {f"balance/{group}/{panel}" for group in ("early", "middle", "late") for panel in panels}
    known |= {f"{kind}/{source}" for kind in ("mix", "validation") for source in ("web", "code")}
    known |= {f"{RATE}{name}" for name in OPTIMIZERS}
    charts = [chart for section in sections(["web", "code"], list(OPTIMIZERS)) for chart in section.charts]
    assert {key for chart in charts for key in chart.keys} - known == set()


def test_learning_rates_are_those_of_the_optimizers_in_use() -> None:
    assert dashboard.optimizer_names({}) == ["muon", "adamw"]
    assert dashboard.optimizer_names({"hidden": "adamw", "others": "adamw"}) == ["adamw"]


def test_offline_it_writes_what_it_would_create_and_says_so(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboard.main([str(run_dir)]) == 0
    said = capsys.readouterr().out
    assert "the run is offline: nothing was created" in said
    assert "--online` creates it" in said
    view = json.loads((run_dir / "dashboard.json").read_text())
    assert (view["entity"], view["project"], view["displayName"]) == ("your-entity", "trinity-smoke", "mine: training")
    bank = view["spec"]["section"]["panelBankConfig"]
    shown = [part["name"] for part in bank["sections"] if part["panels"]]
    assert shown == ["loss and phases", "throughput", "balance", "optimizer", "data mix", "health"]
    plots = [panel["config"] for part in bank["sections"] for panel in part["panels"]]
    assert {plot["xAxis"] for plot in plots} == {"tokens"}
    assert ["validation/code", "validation/web"] in [plot["metrics"] for plot in plots]
    pinned = base64.b64encode(b"Run:v1:abcd1234:trinity-smoke:your-entity").decode()
    assert pinned in json.dumps(view)


def test_sources_are_those_that_are_listed_or_weighed() -> None:
    mix = {"general": {"code": 0.5, "prose": 0.5}, "stem": {"stem": 1.0}}
    assert dashboard.source_names({"mix": mix}) == ["code", "prose", "stem"]
    assert dashboard.source_names({"mix": None, "sources": {"web": {}}}) == ["web"]
    assert [section.name for section in sections([], [])].count("data mix") == 0


def test_online_it_is_created_and_the_next_time_brought_up_to_date(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with wandb_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()
        for _ in range(2):
            assert dashboard.main([str(run_dir), "--online"]) == 0
            assert f"{server.url}/me/trinity-smoke?nw=" in capsys.readouterr().out
        (view,) = server.views.values()
        assert (view["entityName"], view["displayName"]) == ("me", "mine: training")
        wandb.teardown()


def test_a_server_that_does_not_answer_is_said(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(dashboard, "default_entity", fail)
    assert dashboard.main([str(run_dir), "--online"]) == 3
    said = capsys.readouterr().err
    assert "W&B cannot be reached (no network): nothing was created" in said
    assert "wandb login" in said
    assert (run_dir / "dashboard.json").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), "no config.yaml; it is no run directory"),
        (lambda run: (run / "config.yaml").write_text("{"), "config.yaml: cannot be read"),
        (lambda run: (run / "config.yaml").write_text("metrics: {wandb: disabled}"), "metrics.wandb=disabled"),
        (lambda run: (run / "wandb_id").unlink(), "wandb_id does not exist"),
    ],
)
def test_what_is_no_run_with_wandb_is_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    change(run_dir)
    assert dashboard.main([str(run_dir)]) == 2
    assert said in capsys.readouterr().err
