"""train/metrics/sinks.py: what a second start of a run does to the figures of the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from data_pipelines.base.errors import RunError
from train.metrics.config import MetricsConfig
from train.metrics.console import Console
from train.metrics.jsonl import JsonLines
from train.metrics.row import Row
from train.metrics.sinks import Sinks
from train.metrics.weights_and_biases import WandB, _flatten, _wandb_id, start_wandb
from train.pictures.loads import draw_loads


def row_of(**figures: Any) -> Row:
    """A row of the keys that a test is about."""
    return cast(Row, figures)


def write_rows(path: Path, steps: range, *, resume_step: int, loss: float) -> None:
    sink = JsonLines(path, resume_step=resume_step)
    for step in steps:
        sink.write(row_of(step=step, loss=loss))
    sink.close()


def read_rows(path: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_rows_after_the_step_resumed_from_are_written_anew(path: Path) -> None:
    write_rows(path, range(1, 6), resume_step=0, loss=1.0)
    write_rows(path, range(4, 6), resume_step=3, loss=2.0)
    assert read_rows(path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]


def test_a_run_that_starts_over_keeps_no_rows(path: Path) -> None:
    write_rows(path, range(1, 6), resume_step=0, loss=1.0)
    write_rows(path, range(1, 2), resume_step=0, loss=2.0)
    assert read_rows(path) == [(1, 2.0)]


def test_half_a_line_is_dropped(path: Path) -> None:
    write_rows(path, range(1, 3), resume_step=0, loss=1.0)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    write_rows(path, range(3, 4), resume_step=2, loss=2.0)
    assert read_rows(path) == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_row_is_on_disk_before_the_next_step(path: Path) -> None:
    sink = JsonLines(path, resume_step=0)
    sink.write(row_of(step=1, loss=1.0))
    assert read_rows(path) == [(1, 1.0)]
    sink.close()


def test_a_row_that_is_no_json_is_refused(path: Path) -> None:
    sink = JsonLines(path, resume_step=0)
    with pytest.raises(ValueError, match="Out of range float values"):
        sink.write(row_of(step=1, loss=float("nan")))
    sink.close()


def test_the_wandb_id_belongs_to_the_run_directory(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert _wandb_id(first) == _wandb_id(first)
    assert _wandb_id(first) != _wandb_id(second)


def test_nested_figures_are_grouped_by_slashes() -> None:
    assert _flatten({"step": 1, "seconds": {"data": 0.5, "deep": {"x": 2}}}) == {
        "step": 1,
        "seconds/data": 0.5,
        "seconds/deep/x": 2,
    }


class RecordedRun:
    """Stands for W&B's run: keeps what it is given."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.alerts: list[dict[str, str]] = []

    def log(self, figures: dict[str, Any], *, step: int) -> None:
        self.logged.append({**figures, "at": step})

    def alert(self, **alert: str) -> None:
        self.alerts.append(alert)


@pytest.fixture
def wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedRun:
    recorded = RecordedRun()
    monkeypatch.setattr("wandb.init", lambda **settings: recorded)
    return recorded


def write_to_wandb(row: dict[str, Any], run_dir: Path) -> None:
    WandB(MetricsConfig(wandb="offline"), run_dir=run_dir, name="run", settings={}).write(row_of(step=7, **row))


def test_wandb_gets_groups_of_layers_and_not_every_layer(wandb_run: RecordedRun, tmp_path: Path) -> None:
    by_layer = {"max_violation_by_layer": {"2": 0.5}, "by_layer": {"bias_spread": {"2": 0.25}}}
    write_to_wandb({"balance": {"early": {"max_violation": 0.5}}, **by_layer}, tmp_path)
    assert wandb_run.logged == [{"step": 7, "balance/early/max_violation": 0.5, "at": 7}]


def test_wandb_gets_a_path_as_a_picture(wandb_run: RecordedRun, tmp_path: Path) -> None:
    draw_loads(torch.ones(2, 4), ["1", "2"], title="step 7", path=tmp_path / "loads.png")
    write_to_wandb({"loads": tmp_path / "loads.png"}, tmp_path)
    assert type(wandb_run.logged[0]["loads"]).__name__ == "Image"


def test_an_alarm_is_an_alert_in_wandb_and_a_warning_on_the_console(
    wandb_run: RecordedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_to_wandb({"alarm": "experts collapsed: layer 3"}, tmp_path)
    assert [alert["text"] for alert in wandb_run.alerts] == ["experts collapsed: layer 3"]
    figures = {"loss": 2.5, "grad_norm": 0.5, "max_violation": 9.0, "tokens_per_second": 1000.0}
    console = Console(tokens=1000, seen=0, num_steps=10)
    console.write(row_of(step=7, phase="stem", tokens=70, **figures, alarm="experts collapsed: layer 3"))
    console.close()
    assert "WARNING: step 7: experts collapsed: layer 3" in capsys.readouterr().out


def test_a_picture_is_its_path_in_the_file(path: Path) -> None:
    sink = JsonLines(path, resume_step=0)
    sink.write(row_of(step=1, loads=Path("runs/x/loads.png")))
    sink.close()
    assert json.loads(path.read_text()) == {"step": 1, "loads": "runs/x/loads.png"}


@pytest.mark.parametrize("name", ["panels_every", "heatmap_every"])
def test_a_negative_interval_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1; 0 turns it off"):
        MetricsConfig(**{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("home", [None, "nowhere", "there"])
def test_wandb_writes_to_the_run_directory_where_there_is_no_home(
    home: str | None, wandb_run: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    environment = {} if home is None else {"HOME": str(tmp_path / home)}
    monkeypatch.setattr("os.environ", environment)
    write_to_wandb({}, tmp_path)
    folders = {value for name, value in environment.items() if name.startswith("WANDB_") and name.endswith("_DIR")}
    kept = {str(tmp_path / "wandb/home" / kind) for kind in ("cache", "config", "data")}
    assert folders == (set() if home == "there" else kept)


def break_wandb(*_: Any, **__: Any) -> None:
    raise OSError("no network")


def test_wandb_that_cannot_start_stops_a_run_that_requires_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandB, "__init__", break_wandb)
    with pytest.raises(RunError, match=r"W&B cannot start .*no network.*metrics\.wandb=offline"):
        start_wandb(MetricsConfig(wandb="online"), run_dir=tmp_path, name="run", settings={})


def test_nobody_who_chose_offline_is_told_to_choose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandB, "__init__", break_wandb)
    with pytest.raises(RunError, match=r"offline\): no network; go on without by metrics\.wandb=disabled"):
        start_wandb(MetricsConfig(wandb="offline"), run_dir=tmp_path, name="run", settings={})


def test_a_run_that_does_not_require_wandb_says_that_it_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(WandB, "__init__", break_wandb)
    config = MetricsConfig(wandb="online", wandb_required=False)
    assert start_wandb(config, run_dir=tmp_path, name="run", settings={}) == []
    assert "goes on WITHOUT W&B, which cannot start: no network" in capsys.readouterr().err


def test_disabled_wandb_is_no_sink(tmp_path: Path) -> None:
    assert start_wandb(MetricsConfig(wandb="disabled"), run_dir=tmp_path, name="run", settings={}) == []
    assert list(tmp_path.iterdir()) == []


def test_the_console_shows_step_phase_and_validation(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"loss": 2.5, "grad_norm": 0.5, "max_violation": 0.25, "tokens_per_second": 1000.0}
    sinks = Sinks([Console(tokens=1000, seen=0, num_steps=4)])
    sinks.write(row_of(step=4, phase="stem", tokens=1000, **figures, validation={"code": 2.25}))
    sinks.write(row_of(step=4, phase="stem", tokens=1000, **figures, initial_validation={"code": 9.0}))
    sinks.close()
    shown = capsys.readouterr().out
    assert "untrained: validation code 9.000" in shown
    assert "step 4, 1k tokens: validation code 2.250" in shown
    assert "step    4/4" in shown
    assert "loss 2.500" in shown


def test_the_console_says_why_there_is_no_validation(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"loss": 2.5, "grad_norm": 0.5, "max_violation": 0.25, "tokens_per_second": 1000.0}
    console = Console(tokens=1000, seen=0, num_steps=1)
    console.write(row_of(step=1, phase="stem", tokens=1000, **figures, initial_validation={}, validation={}))
    console.close()
    shown = capsys.readouterr().out
    assert shown.count("validation in this run: nothing is held out (no held-out shards") == 1
    assert "untrained" not in shown
    assert "tokens: validation" not in shown
