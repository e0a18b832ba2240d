"""data_pipelines/settings/sweep.py: combinations of values, checked together."""

from __future__ import annotations

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from data_pipelines.settings.sweep import Combination, check_each, combinations


def test_a_sweep_is_every_combination_of_values() -> None:
    jobs = combinations(["run.name=x", "optimizer.muon.lr=1e-2,2e-2", "~data.mix", "balance=choice(sign,smebu)"])
    assert [job.values for job in jobs] == [
        {"optimizer.muon.lr": lr, "balance": balance} for lr in ("0.01", "0.02") for balance in ("sign", "smebu")
    ]
    assert jobs[1].overrides == ["run.name=x", "optimizer.muon.lr=0.01", "~data.mix", "balance=smebu"]
    assert jobs[1].label == "lr=0.01 balance=smebu"


def test_a_key_is_shortened_to_what_no_other_ends_in() -> None:
    (one, *_) = combinations(["optimizer.muon.lr=1,2", "optimizer.adamw.lr=3,4", "+balance.speed=5,6"])
    assert one.label == "muon.lr=1 adamw.lr=3 speed=5"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.muon.lr=interval(0,1)", "no countable values"),
        ("debug.seed=1,2,1", "1 is there twice"),
        ("run.name=ä b,ö", r"""quote each of several values, 'run\.name="ä b","ö"'"""),
    ],
)
def test_values_that_make_no_sweep_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        combinations(["balance=sign", override])


def test_values_with_signs_of_every_kind_come_through() -> None:
    jobs = combinations(['data.tokenizer="a/b","ü=x y","{c,d}",""'])
    assert [compose(["run.name=x", *job.overrides])["data"]["tokenizer"] for job in jobs] == [
        "a/b",
        "ü=x y",
        "{c,d}",
        "",
    ]


def refuse(one: Combination) -> int:
    value = int(one.values["debug.seed"])
    raise ConfigError(["wrong with all", *(["small"] if value < 3 else []), *(["one"] if value == 1 else [])])


def test_a_problem_is_said_once_and_where_it_is() -> None:
    with pytest.raises(ConfigError) as error:
        check_each(combinations(["debug.seed=1,2,3"]), refuse)
    assert error.value.problems == [
        "wrong with all",
        "small (with seed=1, and with 1 other)",
        "one (with seed=1)",
    ]


def test_what_is_right_is_returned_in_order() -> None:
    assert check_each(combinations(["a=1,2", "b=3,4"]), lambda one: one.label) == [
        "a=1 b=3",
        "a=1 b=4",
        "a=2 b=3",
        "a=2 b=4",
    ]
