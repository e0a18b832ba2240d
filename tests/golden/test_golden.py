"""The golden files are what is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import golden


@pytest.mark.parametrize("path", golden.golden_texts(), ids=lambda path: path.name)
def test_a_recipe_or_script_is_the_one_under_review(path: Path) -> None:
    difference = golden.difference(path, golden.golden_texts()[path]())
    assert not difference, f"{difference}\n\nif that is meant: {golden.COMMAND}"


def test_every_golden_file_is_of_an_experiment() -> None:
    assert {path.stem for path in golden.FOLDER.glob("*.txt")} == set(golden.experiments())
    assert {path.stem for path in golden.FOLDER.glob("scripts/*")} == set(golden.SCRIPTS)


@pytest.mark.parametrize(
    ("override", "removed", "added"),
    [
        (
            "optimizer.adamw.weight_decay=0.2",
            "-optimizer.adamw.weight_decay = 0.1",
            "+optimizer.adamw.weight_decay = 0.2",
        ),
        ("model.num_experts=8", "x96x64", "+layers.*.moe.routed_experts.inner_experts.w1_EFD"),
        ("schedule.token_scale=1e-7", "-steps          114, 849,920 tokens", "+steps          "),
    ],
)
def test_a_changed_recipe_shows_as_a_diff(override: str, removed: str, added: str) -> None:
    difference = golden.difference(golden.golden_file("smoke"), golden.resolved("smoke", override))
    assert removed in difference
    assert added in difference
