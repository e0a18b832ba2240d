"""train/balance/alarm.py: when it speaks, and what it says."""

from __future__ import annotations

import math

import pytest
import torch

from train.balance.alarm import CollapseAlarm, is_collapsed
from train.balance.rules.base import AlarmConfig

EVEN_E, SKEWED_E = [4, 4, 4, 4], [0, 1, 3, 12]  # MaxVio 0, and (12 - 4) / 4 = 2; one expert of the latter is dead


def watch(config: AlarmConfig, *steps: list[list[int]]) -> list[str | None]:
    alarm = CollapseAlarm(config, layer_ids=["2", "7"])
    return [alarm.observe(torch.tensor(counts_LE)) for counts_LE in steps]


def test_a_threshold_must_be_exceeded() -> None:
    counts_LE = torch.tensor([EVEN_E, SKEWED_E])
    config = AlarmConfig(max_violation=2.0, dead_share=None)
    assert is_collapsed(counts_LE, config).tolist() == [False, False]
    assert is_collapsed(counts_LE, AlarmConfig(max_violation=1.9, dead_share=None)).tolist() == [False, True]
    assert is_collapsed(counts_LE, AlarmConfig(max_violation=None, dead_share=0.25)).tolist() == [False, False]
    assert is_collapsed(counts_LE, AlarmConfig(max_violation=None, dead_share=0.2)).tolist() == [False, True]
    assert is_collapsed(counts_LE, AlarmConfig(max_violation=None, dead_share=None)).tolist() == [False, False]


def test_it_speaks_when_a_layer_has_been_so_for_long_enough_and_again_after_as_long() -> None:
    bad, good = [EVEN_E, SKEWED_E], [EVEN_E, EVEN_E]
    config = AlarmConfig(max_violation=1.0, steps=2)
    spoken = [message is not None for message in watch(config, bad, good, bad, bad, bad, bad, good, bad, bad)]
    assert spoken == [False, False, False, True, False, True, False, False, True]


def test_it_names_layers_and_experts() -> None:
    (message,) = watch(AlarmConfig(max_violation=1.0, steps=1), [EVEN_E, SKEWED_E])
    assert message == (
        "experts collapsed (steps in a row: 1); layer 7: MaxVio 2.00; "
        "expert 3 has 75 %, expert 2 has 19 % of its tokens, 1 of 4 have none (0)"
    )


def test_layers_that_collapse_together_share_a_message() -> None:
    (message,) = watch(AlarmConfig(max_violation=1.0, steps=1), [SKEWED_E, SKEWED_E])
    assert message is not None
    assert message.count("layer") == 2


def test_of_many_layers_some_are_named() -> None:
    alarm = CollapseAlarm(AlarmConfig(max_violation=1.0, steps=1), layer_ids=[str(layer) for layer in range(8)])
    message = alarm.observe(torch.tensor([SKEWED_E] * 8))
    assert message is not None
    assert message.count("MaxVio") == 5
    assert message.endswith("; and 3 more layers")


def test_many_dead_experts_are_counted_and_some_named() -> None:
    (message,) = watch(AlarmConfig(steps=1), [[1] * 20, [0] * 18 + [1, 1]])
    assert message is not None
    assert message.endswith("18 of 20 have none (0, 1, 2, 3, 4, ...)")


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_violation", -1.0), ("max_violation", math.nan), ("dead_share", -0.1), ("dead_share", 5.0), ("steps", 0)],
)
def test_a_number_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        AlarmConfig(**{name: value})  # type: ignore[arg-type]
