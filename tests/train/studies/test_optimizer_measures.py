"""train/studies/optimizer_measures.py on hand-made rows."""

from __future__ import annotations

from typing import cast

import pytest

from train.metrics.row import Row
from train.studies import optimizer_measures as measures
from train.studies.optimizer_measures import Trial


def trial(optimizer: str, rate: float, seed: int, validation: float) -> Trial:
    """Twenty steps of 2 s, a tenth of it optimizer; losses 20, 19, ... 1."""
    rows = [
        {"step": step, "loss": 21.0 - step, "seconds": {"total": 2.0, "optimizer": 0.2}, "validation": {}}
        for step in range(1, 21)
    ]
    rows[-1]["validation"] = {"code": validation - 1, "prose": validation + 1}
    return Trial(optimizer, rate, seed, cast(list[Row], rows))  # the keys that the study reads


@pytest.fixture
def trials() -> list[Trial]:
    """Muon is best in the middle of its rates, adamw at the largest."""
    losses = {
        ("muon", 0.04): (5.2, 5.4),
        ("muon", 0.01): (5.5, 5.5),
        ("muon", 0.02): (5.0, 5.3),
        ("adamw", 0.01): (5.4, 5.4),
        ("adamw", 0.02): (5.1, 5.5),
    }
    return [
        trial(optimizer, rate, seed, loss)
        for (optimizer, rate), by_seed in losses.items()
        for seed, loss in enumerate(by_seed)
    ]


def test_means_are_over_seeds_in_the_order_of_rates(trials: list[Trial]) -> None:
    assert measures.mean_by_rate(trials, "muon") == pytest.approx({0.01: 5.5, 0.02: 5.15, 0.04: 5.3})


def test_the_best_rate_has_the_least_mean(trials: list[Trial]) -> None:
    # adamw has the better seed at 0.02, and 5.3 against 5.4 in the mean
    assert [(best.rate, best.seed) for best in measures.at_best_rate(trials, "adamw")] == [(0.02, 0), (0.02, 1)]


def test_the_table_by_hand(trials: list[Trial]) -> None:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in measures.table(trials).splitlines()]
    assert cells[0] == list(measures.HEADING)
    # seeds 5.0 and 5.3; the last two of 20 losses are 2 and 1; 0.2 of 2 s
    assert cells[4] == ["muon 0.02", "5.150", "0.300", "1.500", "10.0%"]
    assert [line[0] for line in cells[2:]] == ["muon 0.04", "muon 0.01", "muon 0.02", "adamw 0.01", "adamw 0.02"]


def test_the_conclusion_names_a_best_rate_at_the_edge_and_compares_seed_by_seed(trials: list[Trial]) -> None:
    # 5.0 - 5.1 and 5.3 - 5.5
    assert measures.conclusion(trials) == [
        "muon: best at 0.02, 5.150 nats (spread 0.300)",
        "adamw: best at 0.02, 5.300 nats (spread 0.400); the best rate lies at the edge of those tried, "
        "so a better one may lie beyond",
        "muon less adamw, each at its best rate: -0.150 nats (by seed -0.100, -0.200)",
    ]


def test_a_single_rate_is_an_edge(trials: list[Trial]) -> None:
    (line,) = measures.conclusion([trial for trial in trials if (trial.optimizer, trial.rate) == ("muon", 0.02)])
    assert "at the edge" in line
