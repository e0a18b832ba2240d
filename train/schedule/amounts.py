"""Token amounts as people write them: ``10T``, ``1.5B``, ``4_000_000``."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator

UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MAX_TOKENS = 10**18
"""Positions of tokens are 64-bit integers."""
_AMOUNT = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kMBT]?)")


def parse_tokens(amount: object) -> int:
    """A number of tokens from an int, or from text with a decimal unit; exact, never through a float.

    Raises ValueError for anything else, and for an amount that is not a whole number of tokens.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | str):
        raise ValueError(f"{amount!r} is no token amount; write a whole number or one like 10T, 1.5B, 4_000_000")
    match = _AMOUNT.fullmatch(str(amount).strip())
    if match is None:
        raise ValueError(f"{amount!r} is no token amount; write a whole number or one like 10T, 1.5B, 4_000_000")
    tokens = Fraction(match[1].replace("_", "")) * UNITS[match[2]]
    if tokens.denominator != 1:
        raise ValueError(f"{amount!r} is not a whole number of tokens")
    if tokens > MAX_TOKENS:
        raise ValueError(f"{amount!r} is beyond {format_tokens(MAX_TOKENS)} tokens, which no run can count")
    return int(tokens)


def format_tokens(tokens: int) -> str:
    """Three significant digits and a unit: 201_326_592_000 -> '201B'."""
    rounded = float(f"{tokens:.3g}")  # before the unit is chosen: 999_999 is 1M, not 1e+03k
    unit = next((unit for unit in "TBMk" if rounded >= UNITS[unit]), "")
    return f"{rounded / UNITS[unit]:g}{unit}"


Tokens = Annotated[int, BeforeValidator(parse_tokens)]
"""A config field that holds a token amount."""
