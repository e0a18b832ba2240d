"""A sweep: every combination of values that settings are given as a,b or choice(), range(). All are checked, or none.

-m optimizer.muon.lr=1e-2,2e-2 balance=sign,smebu        four combinations
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.overrides import parse

Checked = TypeVar("Checked")


@dataclass(frozen=True)
class Combination:
    """One value for each setting of a sweep."""

    values: dict[str, str]
    """Setting -> value, in Hydra's grammar."""
    overrides: list[str]
    """All of the command line."""

    @property
    def label(self) -> str:
        """What is special to it: 'lr=0.01 balance=sign'."""
        short = short_names(self.values)
        return " ".join(f"{short[key]}={value}" for key, value in self.values.items()) or "the only one"


def combinations(overrides: list[str]) -> list[Combination]:
    """Raises ConfigError where an override cannot be read, has no countable values, or has one of them twice."""
    choices: list[list[tuple[str, str]]] = []
    for text, one in zip(overrides, parse(overrides), strict=True):
        key = one.get_key_element()
        choices.append([(key, value) for value in _values(one)] if one.is_sweep_override() else [("", text)])
    return [
        Combination(
            {key.lstrip("+"): value for key, value in combination if key},
            [f"{key}={value}" if key else value for key, value in combination],
        )
        for combination in product(*choices)
    ]


def check_each(sweep: list[Combination], check: Callable[[Combination], Checked]) -> list[Checked]:
    """What `check` makes of every combination. Raises ConfigError with all that it refuses, each problem once."""
    checked: list[Checked] = []
    found: dict[str, list[str]] = {}
    for one in sweep:
        try:
            checked.append(check(one))
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(one.label)
    if found:
        raise ConfigError([_where(problem, labels, len(sweep)) for problem, labels in found.items()])
    return checked


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The end of each key that no other has: lr, or muon.lr beside adamw.lr."""
    keys = list(keys)
    short: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[place:]) for place in reversed(range(len(parts)))]
        others = [f".{other}" for other in keys if other != key]
        short[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return short


def _values(override: Override) -> list[str]:
    if not override.is_discrete_sweep():
        key = override.get_key_element()
        raise ConfigError([f"{override.input_line}: has no countable values; name them: {key}=1,2,3"])
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError([f"{override.input_line}: {error}; name the options: a,b"]) from error
    if twice := [value for value, times in Counter(values).items() if times > 1]:
        raise ConfigError([f"{override.input_line}: {', '.join(twice)} is there twice; leave one out"])
    return values


def _where(problem: str, labels: list[str], num_combinations: int) -> str:
    """What is wrong with some of the combinations is said with the first of them."""
    if len(labels) == num_combinations:
        return problem
    others = f", and with {len(labels) - 1} other{'s' if len(labels) > 2 else ''}" if len(labels) > 1 else ""
    return f"{problem} (with {labels[0]}{others})"
