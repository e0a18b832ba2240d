"""train/studies/balance_measures.py on hand-made rows."""

from __future__ import annotations

from typing import cast

import pytest

from train.metrics.row import Row
from train.studies import balance_measures as measures
from train.studies.tables import last_validation

# MaxVio of two layers in each of eight steps, four in each phase.
VIOLATIONS = [(4.0, 2.0), (2.0, 0.5), (0.5, 0.9), (0.4, 0.2), (3.0, 5.0), (2.0, 2.0), (1.0, 0.5), (1.5, 0.5)]


def make_row(step: int, layers: tuple[float, float], **more: object) -> Row:
    row = {
        "step": step,
        "phase": "code" if step <= 4 else "prose",
        "loss": 10.0 - step,
        "max_violation": max(layers),
        "by_layer": {
            "max_violation": {"1": layers[0], "2": layers[1]},
            "bias_reversals": {"1": 0.25, "2": 0.75},
            "bias_recoil": {"1": 0.001 * step, "2": 0.001 * step},
        },
        "dead_experts": step % 2,
        "seconds": {"total": 1.5},
        **more,
    }
    return cast(Row, row)  # the keys that the study reads


@pytest.fixture
def rows() -> list[Row]:
    rows = [make_row(step, layers) for step, layers in enumerate(VIOLATIONS, 1)]
    rows[3]["validation"] = {"code": 9.0, "prose": 9.0}
    rows[7]["validation"] = {"code": 3.0, "prose": 4.0}
    return rows


def test_the_last_half_of_each_phase_is_settled(rows: list[Row]) -> None:
    assert [row["step"] for row in measures.settled_rows(rows)] == [3, 4, 7, 8]


def test_a_phase_of_one_step_is_settled_in_it(rows: list[Row]) -> None:
    assert [row["step"] for row in measures.settled_rows(rows[:5])] == [3, 4, 5]


def test_steps_to_even_are_counted_from_each_change_of_the_mixture(rows: list[Row]) -> None:
    # code: the third step is the first with both layers below 1; prose: 1.0 in the third is not below 1
    assert measures.steps_to_even(rows) == [3, None]


def test_figures_by_hand(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "WARM_UP_STEPS", 1)
    # MaxVio (0.7 + 0.3 + 0.75 + 1.0) / 4; worst of steps 2 to 8 is 5; dead 0 1 0 1 0 1 0 = 3 / 7;
    # settled steps 3, 4, 7, 8: recoil 0.0055, loss 4.5; validation (3 + 4) / 2; 8 x 1.5 s
    assert measures.figures(rows) == ("0.69", "5.0", "3, never", "0.4", "50%", "0.0055", "4.500", "3.500", "12")


def test_a_run_that_ends_within_the_warm_up_is_judged_by_all_its_steps(rows: list[Row]) -> None:
    assert measures.figures(rows)[1] == "5.0"


def test_a_run_without_validation_has_none(rows: list[Row]) -> None:
    assert last_validation(rows[:3]) is None
    assert measures.figures(rows[:3])[-2] == "-"


def test_the_table_is_markdown_whose_columns_line_up(rows: list[Row]) -> None:
    head, rule, *body = measures.table([("none", rows[:2]), ("smebu 0.03", rows)]).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(measures.HEADING)
    assert set(rule) == set("|-:")
    assert [line.split("|")[1].strip() for line in body] == ["none", "smebu 0.03"]
    assert len({len(line) for line in (head, rule, *body)}) == 1
