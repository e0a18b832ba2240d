"""train/metrics/sinks.py: what a second start of a run does to the figures of the first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from data_pipelines.settings.compose import compose
from train.config.check import check
from train.metrics.config import MetricsConfig
from train.metrics.console import Console
from train.metrics.events import History
from train.metrics.jsonl import JsonLines
from train.metrics.row import Row
from train.metrics.sinks import Sinks, open_sinks
from train.metrics.weights_and_biases import RunFacts

FIGURES = {"loss": 2.5, "grad_norm": 0.5, "max_violation": 0.25, "tokens_per_second": 1000.0}
"""What the console shows of a row."""


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


@pytest.mark.parametrize(
    ("rows", "said"),
    [(range(1, 5), ""), ((1, 2, 4), "no rows of 1 of the 4 steps so far"), ((), "no rows of 4 of the 4")],
)
def test_a_run_says_where_rows_of_its_past_are_gone(
    path: Path, rows: Sequence[int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text("".join(json.dumps({"step": step, "loss": 2.0, "grad_norm": 1.0}) + "\n" for step in rows))
    timeline = check(compose(["experiment=smoke"])).timeline
    off = MetricsConfig(wandb="disabled", console=False)
    facts = RunFacts(run_dir=path.parent, name="run", settings={}, timeline=timeline, history=History())
    open_sinks(off, facts, resume_step=4, last_step=5).close()
    output = capsys.readouterr().out
    assert said in output if said else not output


def test_alarms_are_warnings_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(tokens=1000, seen=0, num_steps=10)
    console.write(row_of(step=7, phase="stem", tokens=70, **FIGURES, alarm="layer 3 collapsed", spike="spike: loss 9"))
    console.close()
    shown = capsys.readouterr().out
    assert "WARNING: step 7: layer 3 collapsed" in shown
    assert "WARNING: step 7: spike: loss 9" in shown


def test_a_spike_is_in_the_row_before_any_sink_sees_it(path: Path) -> None:
    sinks = Sinks([JsonLines(path, resume_step=0)])
    for step in range(1, 41):
        sinks.write(row_of(step=step, loss=9.0 if step == 40 else 2.0, grad_norm=1.0))
    sinks.close()
    spikes = {row["step"]: row["spike"] for row in map(json.loads, path.read_text().splitlines()) if "spike" in row}
    assert spikes == {40: "spike: loss 9.000, median of the steps before 2.000"}


def test_a_picture_is_its_path_in_the_file(path: Path) -> None:
    sink = JsonLines(path, resume_step=0)
    sink.write(row_of(step=1, loads=Path("runs/x/loads.png")))
    sink.close()
    assert json.loads(path.read_text()) == {"step": 1, "loads": "runs/x/loads.png"}


@pytest.mark.parametrize("name", ["panels_every", "heatmap_every"])
def test_a_negative_interval_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1; 0 turns it off"):
        MetricsConfig(**{name: -1})  # type: ignore[arg-type]


def test_the_console_shows_step_phase_and_validation(capsys: pytest.CaptureFixture[str]) -> None:
    sinks = Sinks([Console(tokens=1000, seen=0, num_steps=4)])
    sinks.write(row_of(step=4, phase="stem", tokens=1000, **FIGURES, validation={"code": 2.25}))
    sinks.write(row_of(step=4, phase="stem", tokens=1000, **FIGURES, initial_validation={"code": 9.0}))
    sinks.close()
    shown = capsys.readouterr().out
    assert "untrained: validation code 9.000" in shown
    assert "step 4, 1k tokens: validation code 2.250" in shown
    assert "step    4/4" in shown
    assert "loss 2.500" in shown


def test_the_console_says_why_there_is_no_validation(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(tokens=1000, seen=0, num_steps=1)
    console.write(row_of(step=1, phase="stem", tokens=1000, **FIGURES, initial_validation={}, validation={}))
    console.close()
    shown = capsys.readouterr().out
    assert shown.count("validation in this run: nothing is held out (no held-out shards") == 1
    assert "untrained" not in shown
    assert "tokens: validation" not in shown
