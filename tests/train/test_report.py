"""train/report.py and train/pictures/run.py on hand-made rows."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import cast

import pytest
from matplotlib import pyplot as plt

from data_pipelines.base.canvas import smooth
from data_pipelines.base.errors import CONFIG_EXIT
from train import report
from train.metrics.jsonl import read_rows
from train.pictures.run import PANELS
from train.report import Row

# Three steps of 100 tokens. The second phase starts at token 150, in the middle of the second step.
PHASES = {"general": (0, 150), "stem": (150, 300)}


def make_row(step: int, *, phase: str = "general", loss: float = 1.0, **more: object) -> Row:
    seconds = {"data": 1.0, "forward_backward": 6.0, "optimizer": 2.0, "checkpoint": 0.0, "validation": 0.0}
    row = {
        "step": step,
        "tokens": 100 * step,
        "phase": phase,
        "loss": loss,
        "lr_muon": 8e-4,
        "lr_adamw": 2e-4,
        "global_batch": 10,
        "max_violation": 0.5,
        "max_violation_by_layer": {"2": 0.5, "3": 0.25},
        "dead_experts": 0,
        "tokens_per_second": 50.0 * step,
        "seconds": {**seconds, "total": 10.0},
        **more,
    }
    return cast(Row, row)  # the keys that the report reads


@pytest.fixture
def rows() -> list[Row]:
    return [
        make_row(1, loss=9.0),
        make_row(2, loss=6.0, validation={"code": 5.5, "stem": 6.5}, dead_experts=2, max_violation=1.5),
        make_row(3, loss=4.0, phase="stem", validation={"code": 4.0, "stem": 7.0}),
    ]


@pytest.fixture
def run_dir(tmp_path: Path, rows: list[Row]) -> Path:
    """The rows as a run of windows of 10 tokens leaves them."""
    phases = "[{name: general, tokens: 3k}, {name: stem, tokens: 3k}]"
    (tmp_path / "config.yaml").write_text(
        f"schedule: {{token_scale: 0.05, batch: [{{from_tokens: 0, sequences: 10}}], phases: {phases}}}\n"
        "training: {seq_len: 10}\n"
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_step_over_a_phase_edge_counts_its_tokens_in_both_phases(rows: list[Row]) -> None:
    # 300 tokens: 150 + 150, though two of the three steps begin in the first phase
    assert report.training_block(rows, PHASES)[1:] == [
        ("  general", "150", "2", "9.000", "6.000"),
        ("  stem", "150", "1", "4.000", "4.000"),
        ("  whole run", "300", "3", "9.000", "4.000"),
    ]


def test_a_phase_that_was_not_reached_has_no_line(rows: list[Row]) -> None:
    names = [line[0] for line in report.training_block(rows[:1], PHASES)]
    assert names == ["training", "  general", "  whole run"]


def test_validation_compares_the_first_measurement_with_the_last(rows: list[Row]) -> None:
    assert report.validation_block(rows) == [
        ("validation", "step 2", "step 3", "change"),
        ("  code", "5.500", "4.000", "-1.500"),
        ("  stem", "6.500", "7.000", "+0.500"),
    ]
    assert report.validation_block(rows[:1]) == []


def test_validation_starts_from_the_untrained_model_where_it_was_measured(rows: list[Row]) -> None:
    rows[0]["initial_validation"] = {"code": 9.0, "stem": 9.5}
    assert report.validation_block(rows) == [
        ("validation", "step 0", "step 3", "change"),
        ("  code", "9.000", "4.000", "-5.000"),
        ("  stem", "9.500", "7.000", "-2.500"),
    ]


def test_balance_shows_mean_and_worst(rows: list[Row]) -> None:
    # MaxVio 0.5, 1.5, 0.5: mean 0.83; idle experts 0, 2, 0: mean 0.7
    assert report.balance_block(rows)[1:] == [("  MaxVio", "0.83", "1.50"), ("  idle experts", "0.7", "2")]


def test_balance_judges_the_last_50_steps_only() -> None:
    rows = [make_row(step, dead_experts=9 if step == 1 else 0) for step in range(1, 52)]
    assert report.balance_block(rows)[2] == ("  idle experts", "0.0", "0")


def test_shares_of_time_add_up_with_the_rest_as_other(rows: list[Row]) -> None:
    # of 10 s each: data 1, forward-backward 6, optimizer 2, so 1 is left over; times 3 steps
    lines = {name.strip(): figures for name, *figures in report.time_block(rows)}
    assert lines["forward-backward"] == ["18.0", "60.0%"]
    assert lines["other"] == ["3.0", "10.0%"]
    assert lines["all steps"] == ["30.0", "100.0%"]


def test_all_lines_of_the_table_end_in_one_of_its_columns(rows: list[Row]) -> None:
    ends = {len(line) for line in report.table(rows, PHASES).splitlines() if line}
    assert ends <= {24 + 14 * columns for columns in range(1, 5)}


def test_phase_edges_come_from_the_schedule_of_the_run(run_dir: Path) -> None:
    assert report.read_phases(run_dir) == PHASES  # 3k x 0.05 = 150 tokens = 15 windows


def test_the_line_of_a_step_that_was_cut_off_is_left_out(run_dir: Path, rows: list[Row]) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tok')
    assert read_rows(run_dir) == rows


def test_a_report_is_a_table_and_a_picture(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(run_dir)]) == 0
    output = capsys.readouterr().out
    assert "3 steps, 300 tokens, 100 tokens/s (median step)" in output
    assert output.endswith(f"picture: {run_dir}/report.png\n")
    assert (run_dir / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_needs_one_step_only_and_no_validation(run_dir: Path, rows: list[Row]) -> None:
    (run_dir / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert report.main([str(run_dir)]) == 0


def test_a_table_without_validation_says_so(rows: list[Row]) -> None:
    assert "validation: none so far" not in report.table(rows, PHASES)
    assert "validation: none so far" in report.table(rows[:1], PHASES)


def test_each_panel_of_a_picture_of_one_step_shows_something(rows: list[Row]) -> None:
    """A line of one point has no length: it needs a marker."""
    figure, panels = plt.subplots(1, 4)
    for axes, draw_panel in zip(panels, PANELS, strict=True):
        draw_panel(axes, rows[:1])
    for axes in figure.axes[:3]:
        assert all(line.get_marker() == "o" for line in axes.lines)
        assert axes.lines
    assert [text.get_text() for text in figure.axes[3].texts] == ["not measured"]
    plt.close(figure)


def test_the_rate_of_each_optimizer_in_use_is_drawn(rows: list[Row]) -> None:
    shown: list[list[str]] = []
    for names in (("muon", "adamw"), ("lion",)):
        of_run = [{key: value for key, value in row.items() if not key.startswith("lr_")} for row in rows]
        for row in of_run:
            row.update({f"lr_{name}": 1e-3 for name in names})
        figure, axes = plt.subplots()
        PANELS[1](axes, cast(list[Row], of_run))
        shown.append([text.get_text() for text in axes.texts])
        plt.close(figure)
    assert shown == [["muon", "adamw"], ["lion"]]


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), ("", "no finished step")])
def test_a_run_without_steps_is_an_error_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "metrics.jsonl") in error
    assert message in error


def test_a_run_that_may_only_be_read_has_its_table(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    assert report.main([str(run_dir)]) == 0
    shown = capsys.readouterr().out
    assert "whole run" in shown
    assert shown.endswith(f"picture: none, {run_dir} cannot be written (Read-only file system)\n")


def test_smoothing_is_centred_and_shorter_at_the_ends() -> None:
    # 3 values around each: (1+2)/2, (1+2+6)/3, (2+6)/2
    assert smooth([1.0, 2.0, 6.0], window=3) == [1.5, 3.0, 4.0]


def refusal(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says instead of a report, on one line."""
    assert report.main([str(run_dir)]) == CONFIG_EXIT
    (line,) = capsys.readouterr().err.splitlines()
    assert not (run_dir / "report.png").exists()
    return line


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(({key: None}, f"{key}: ") for key in ("loss", "tokens", "phase", "max_violation", "seconds", "lr_muon")),
        ({"loss": "4.0"}, "loss: Input should be a valid number"),
        ({"seconds": {"data": 1.0}}, "seconds.total: Field required"),
        ({"max_violation_by_layer": {}}, "max_violation_by_layer: "),
        ({"max_violation_by_layer": {"2": 0.5, "4": 0.5}}, "its layers are 2, 4, those before are others"),
        ({"validation": {"code": 1.0, "web": 1.0}}, "its held-out sources are code, web, those before are others"),
        ({"validation": 5}, "validation: "),
        ({"lr_lion": 1e-3}, "its learning rates are those of muon, adamw, lion, those before are others"),
        ({"step": 2}, "step 2 comes after step 2"),
        ({"step": 1}, "step 1 comes after step 2"),
    ],
)
def test_a_row_that_is_damaged_is_named_by_its_line(
    run_dir: Path, rows: list[Row], changes: dict[str, object], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(json.dumps(row) + "\n" for row in [*rows[:2], {**rows[2], **changes}])
    (run_dir / "metrics.jsonl").write_text(text)
    said = refusal(run_dir, capsys)
    assert said.startswith(f"error: {run_dir}/metrics.jsonl, line 3: {problem}")
    assert said.endswith("; remove the line, or restore the file from a copy")


def test_a_run_with_other_optimizers_has_a_report(run_dir: Path, rows: list[Row]) -> None:
    row = {key: value for key, value in rows[0].items() if not key.startswith("lr_")} | {"lr_lion": 1e-3}
    (run_dir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert report.main([str(run_dir)]) == 0


def test_a_step_that_took_no_time_has_a_report(run_dir: Path, rows: list[Row]) -> None:
    row = {**rows[0], "seconds": {"total": 0.0}}
    (run_dir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert report.main([str(run_dir)]) == 0


@pytest.mark.parametrize(
    "text", [None, "", "schedule: {", "[1]", "a\0b", "schedule: {}\n", "seq_len: 0", "seq_len: abc"]
)
def test_a_configuration_that_cannot_be_read_is_named(
    run_dir: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_dir / "config.yaml"
    if text is None:
        path.unlink()
    elif "seq_len" in text:
        path.write_text(path.read_text().replace("seq_len: 10", text))
    else:
        path.write_text(text)
    assert report.main([str(run_dir)]) == CONFIG_EXIT
    assert capsys.readouterr().err.startswith(f"error: {path}")
