"""train/schedule/amounts.py: what people write, and what they read."""

from __future__ import annotations

import pytest

from train.schedule.amounts import format_tokens, parse_tokens


@pytest.mark.parametrize(
    ("amount", "tokens"),
    [
        (0, 0),
        (4_000_000, 4_000_000),
        ("4_000_000", 4_000_000),
        (" 64k ", 64_000),
        ("1.5B", 1_500_000_000),
        ("10T", 10_000_000_000_000),
        ("4.9 T", 4_900_000_000_000),
        ("0.001k", 1),
        ("9007.199254740993T", 9_007_199_254_740_993),  # 2^53 + 1, which no float holds
    ],
)
def test_an_amount_is_read_exactly(amount: object, tokens: int) -> None:
    assert parse_tokens(amount) == tokens


@pytest.mark.parametrize("amount", ["", "T", "1e9", "-5", -5, "1.5Q", "1,5B", "10t", "1.T", 1e9, True, None, [1]])
def test_anything_else_is_no_amount(amount: object) -> None:
    with pytest.raises(ValueError, match="is no token amount; write a whole number or one like 10T"):
        parse_tokens(amount)


@pytest.mark.parametrize("amount", ["1.5", "0.0001k", "1.0000000000001T"])
def test_a_fraction_of_a_token_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=f"'{amount}' is not a whole number of tokens"):
        parse_tokens(amount)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (849_920, "850k"),
        (999_499, "999k"),
        (999_500, "1M"),  # three digits of it are 1.00e6, so the unit is M
        (201_326_592_000, "201B"),
        (1_500_000_000_000, "1.5T"),
    ],
)
def test_an_amount_is_written_in_three_digits_and_a_unit(tokens: int, text: str) -> None:
    assert format_tokens(tokens) == text


@pytest.mark.parametrize("text", ["999", "1.23k", "850k", "1.5M", "201B", "17T"])
def test_what_is_written_can_be_read(text: str) -> None:
    assert format_tokens(parse_tokens(text)) == text
