"""launch/checks/tokenizer.py: ids and rows, the run's own copy, the weights' one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.launch.checks.world import Fault, World, assert_found
from tests.train.small import write_run
from train.checkpoint.tokenizer import HASH


def other_copy(world: World) -> None:
    write_run(world.settings, world.run_dir)
    (world.run_dir / "checkpoint/step-1" / HASH).write_text("e" * 64)


def weights(world: World) -> Path:
    write_run(world.settings, world.folder / "earlier")
    checkpoint = world.folder / "earlier/checkpoint/step-1"
    world.set(f"checkpoint.initial_load_path={checkpoint}")
    return checkpoint


def other_weights(world: World) -> None:
    (weights(world) / HASH).write_text("e" * 64)


def no_end_of_text(world: World) -> None:
    (world.folder / "data/tokenizer/tokenizer_config.json").write_text("{}")


def damaged(world: World) -> None:
    (world.folder / "data/tokenizer/tokenizer.json").write_text("{}")


FAULTS = {
    "tokenizer that is not there": Fault(
        lambda world: shutil.rmtree(world.folder / "data/tokenizer"), "fail", r"tokenizer\.json does not exist"
    ),
    "tokenizer that cannot be read": Fault(damaged, "fail", "is no tokenizer that this version"),
    "tokenizer without an end of text": Fault(no_end_of_text, "fail", "no end-of-text token"),
    "more ids than rows": Fault(lambda world: world.set("model.vocab_size=264"), "fail", r"270 ids for .*264 rows"),
    "rows that nothing uses": Fault(
        lambda world: world.set("model.vocab_size=1024"), "warning", "most of which would never be used"
    ),
    "tokenizer that is not the run's": Fault(other_copy, "fail", "the run's tokenizer has hash"),
    "tokenizer that is not the weights'": Fault(
        other_weights, "fail", r"were trained with the tokenizer .* \(hash eeeeeeeeeeee\)"
    ),
    "weights that do not say which tokenizer they had": Fault(weights, "warning", "could not be compared"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])
