"""The same five steps on every mesh: the real program on 1 to 16 ranks, and known failures patched into it.

Rows of the printed tables are runs; columns are the largest relative differences to one rank without accumulation or
recomputation (tests/train/mesh_runs.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from data_pipelines.base.errors import RUN_EXIT
from tests.train import mutants
from tests.train.mesh_runs import (
    NUM_STEPS,
    ONE_RANK,
    Combination,
    Difference,
    Outcome,
    differences,
    finish,
    mesh_settings,
    read_outcome,
)
from tests.train.runs import Hook, run
from train.metrics.jsonl import read_rows

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # DCP, in this process: as intended

MIDDLE_STEP = 3

LIMIT = 1e-5
"""float32 sums in another order are 6e-8 off each; Newton-Schulz and AdamW's division enlarge that to 1e-6 in five
steps. A fault shows from 1e-2 on, see MUTANTS."""

COMBINATIONS = [
    Combination(microbatches=4),
    Combination(recompute="selective"),
    Combination(recompute="full"),
    Combination(replicas=2),
    Combination(shards=2),
    Combination(shards=2, expert_ranks=2),
    Combination(replicas=2, shards=2, expert_ranks=2),
    Combination(shards=4, expert_ranks=2),  # rows of the experts over two ranks
    Combination(shards=4, expert_ranks=4),
    Combination(replicas=2, shards=2, expert_ranks=2, microbatches=2, recompute="selective"),
    Combination(shards=4, expert_ranks=4, microbatches=4, recompute="full"),
    Combination(shards=8, expert_ranks=8),
    Combination(shards=8, expert_ranks=8, microbatches=2, recompute="full"),
    Combination(replicas=2, shards=4, expert_ranks=4, microbatches=2, recompute="selective"),
    Combination(replicas=2, shards=8, expert_ranks=8),
    Combination(replicas=2, shards=8, expert_ranks=8, microbatches=2, recompute="full"),
]

AddRow = Callable[[str, str, dict[str, Difference]], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("meshes")


@pytest.fixture(scope="module")
def settings(folder: Path) -> list[str]:
    return mesh_settings(folder)


@pytest.fixture(scope="module")
def reference(settings: list[str], folder: Path) -> Outcome:
    return finish(ONE_RANK, settings, run_dir=folder / "reference")


@pytest.fixture(scope="module")
def add_row(tables: dict[str, list[str]]) -> AddRow:
    """Adds (title, row, differences) to what is printed at the end."""

    def add(title: str, row: str, found: dict[str, Difference]) -> None:
        lines = tables.setdefault(title, ["".join([" " * 42, *(f"{column:>13}" for column in found)])])
        lines.append("".join([f"{row:42}", *(f"{difference.value:13.1e}" for difference in found.values())]))

    return add


def beyond_limit(found: dict[str, Difference]) -> dict[str, Difference]:
    return {column: difference for column, difference in found.items() if not difference.value <= LIMIT}  # nor NaN


# Equality


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_five_steps_are_those_of_one_rank(combination, settings, reference, add_row, tmp_path):
    found = differences(finish(combination, settings, run_dir=tmp_path / "run"), reference)
    add_row("largest relative difference to one rank", str(combination), found)
    assert beyond_limit(found) == {}


def test_the_reference_moves_what_the_columns_compare(reference):
    """Differences of what stays as it was would be small on every mesh."""
    assert all(norm > 0.5 for norm in reference["grad_norm"].values())  # training.max_norm: clipped in every step
    for name in ("z_loss", "balance_loss"):
        assert all(value > 5e-3 * reference["loss"][step] for step, value in reference[name].items())
    assert all(bias.abs().max() > 1e-2 for bias in reference["bias"].values())  # median gap of scores: 3e-2
    assert all(momentum.abs().max() > 1e-3 for momentum in reference["momentum"].values())


# Known failures


class Mutant(NamedTuple):
    hook: Hook
    combination: Combination
    caught: dict[str, float]
    """Columns that show it, and half of how much."""


EXPERTS_APART = Combination(shards=mutants.EXPERT_RANKS, expert_ranks=mutants.EXPERT_RANKS)
ACCUMULATED = Combination(microbatches=mutants.MICROBATCHES)
MUTANTS = {
    # Both optimizers divide a constant factor of a gradient out again: the norm is what tells.
    "gradients of experts times EP": Mutant(mutants.scale_expert_gradients, EXPERTS_APART, {"grad_norm": 3e-2}),
    "biases follow the counts of one rank": Mutant(
        mutants.balance_by_the_counts_of_one_rank, EXPERTS_APART, {"bias": 5e-2, "momentum": 0.2}
    ),
    "biases updated per microbatch": Mutant(
        mutants.update_biases_per_microbatch, ACCUMULATED, {"bias": 0.3, "momentum": 0.8}
    ),
    "z-loss times chunks": Mutant(mutants.scale_z_loss_by_chunks, ONE_RANK, {"grad_norm": 4e-2, "parameters": 4e-2}),
    "balance loss times microbatches": Mutant(
        mutants.scale_balance_loss_by_microbatches, ACCUMULATED, {"grad_norm": 1.5e-2, "parameters": 3e-2}
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_known_failure_shows_in_the_table(name, settings, reference, add_row, tmp_path):
    hook, combination, caught = MUTANTS[name]
    found = differences(finish(combination, settings, run_dir=tmp_path / "run", hook=hook), reference)
    add_row("the same for known failures", name, found)
    assert beyond_limit(found) != {}
    assert {column: found[column] for column, least in caught.items() if not found[column].value >= least} == {}


@pytest.mark.parametrize(
    ("hook", "combination", "counted"),
    [
        (mutants.count_recomputed_tokens, Combination(recompute="full"), "4,096"),
        (mutants.count_recomputed_tokens, Combination(recompute="selective"), "4,096"),
        (mutants.lose_the_counts_of_other_ranks, EXPERTS_APART, "1,024"),
    ],
    ids=["counts doubled by full AC", "counts doubled by selective AC", "counts of one rank only"],
)
def test_a_run_stops_when_counts_do_not_add_up(hook, combination, counted, settings, tmp_path):
    command = [*settings, *combination.overrides]
    result = run(command, run_dir=tmp_path / "run", num_ranks=combination.num_ranks, hook=hook)
    assert result.exit_codes == [RUN_EXIT] * combination.num_ranks, result.output
    assert f"layer 1 counted {counted} routed tokens; 1,024 tokens x top_k 2 = 2,048 were expected" in result.output
    assert result.rows == []


# Resume


@pytest.fixture(scope="module")
def uninterrupted(settings: list[str], folder: Path) -> tuple[Path, Outcome]:
    """With a checkpoint in the middle."""
    combination = Combination(replicas=2, shards=2, expert_ranks=2)
    command = [*settings, f"checkpoint.interval={MIDDLE_STEP}"]
    return folder / "uninterrupted", finish(combination, command, run_dir=folder / "uninterrupted")


@pytest.mark.parametrize(
    "combination", [ONE_RANK, Combination(shards=4, expert_ranks=4, microbatches=2, recompute="full")], ids=str
)
def test_resumed_on_another_mesh_bias_and_momentum_go_on_bit_for_bit(combination, uninterrupted, settings, tmp_path):
    run_dir, expected = uninterrupted
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns(f"step-{NUM_STEPS}"))
    resumed = finish(combination, settings, run_dir=tmp_path / "run")
    middle = read_outcome(run_dir / f"checkpoint/step-{MIDDLE_STEP}", [])
    for column in ("bias", "momentum"):
        for name, tensor in expected[column].items():
            assert torch.equal(resumed[column][name], tensor), name
            assert not torch.equal(middle[column][name], tensor), name


# Validation


def test_validation_between_steps_changes_no_bit(settings, reference, folder, tmp_path):
    command = [*settings, "validation.windows=4", f"data.sources.random.held_out={folder / 'shards'}"]
    validated = finish(ONE_RANK, [*command, "checkpoint.interval=1"], run_dir=tmp_path / "run")
    assert ["validation" in row for row in read_rows(tmp_path / "run")] == [True] * NUM_STEPS
    assert {difference.value for difference in differences(validated, reference).values()} == {0.0}
