"""The same merges in tiktoken, which is several times as fast; only for tokenizers whose rules one expression can say.

`tokenizers` cuts a text by one rule after the other, each inside of what the rules before it left; tiktoken cuts once,
by one expression. What stands here is worked out for three ways of cutting: GPT-2's, one Split by an expression of its
own (Llama 3, Qwen), and Trinity's. Whether the ids are the same is not believed: `difference` compares them on a
sample of the very text, and tokenisation goes by `tokenizers` where one differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer, pre_tokenizers

from data_pipelines.tokenizer.bpe import RULES, TRINITY_CUTS

_GPT_2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ByteLevel cuts by with use_regex."""
MOST_DIGITS = 510
"""A longer run is cut elsewhere by the one expression, and takes quadratic time: such a text goes by `tokenizers`."""


class NotFastError(ValueError):
    """Why a tokenizer cannot be said in one expression."""


class FastEncoder:
    """Raises NotFastError for a tokenizer that it would not follow."""

    def __init__(self, tokenizer: Tokenizer):
        description = json.loads(tokenizer.to_str())
        self._encoding = tiktoken.Encoding(
            "of tokenizer.json",
            pat_str=_expression(description),
            mergeable_ranks=_ranks(description),
            special_tokens={},
        )
        self._tokenizer = tokenizer

    def encode_each(self, texts: Sequence[str], eos_id: int, threads: int) -> Iterator[np.ndarray]:
        """The ids of each text, `eos_id` last. tiktoken works outside of Python's lock."""
        with ThreadPoolExecutor(threads) as pool:
            for ids in pool.map(self.encode, texts) if threads > 1 else map(self.encode, texts):
                yield np.append(ids, np.uint32(eos_id))

    def encode(self, text: str) -> np.ndarray | list[int]:
        """The ids of a text, nothing added to them. What tiktoken cannot take goes by the tokenizer itself."""
        if not has_long_number(text):
            try:
                return np.frombuffer(self._encoding._core_bpe.encode_to_tiktoken_buffer(text, frozenset()), np.uint32)
            except ValueError:  # 1,000,000 spaces are more than its engine of expressions goes back over
                pass
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def has_long_number(text: str) -> bool:
    """Whether there is a run of more than MOST_DIGITS numeric characters: one of them stands at each such place."""
    places = range(MOST_DIGITS, len(text), MOST_DIGITS + 1)
    return any(text[at].isnumeric() and _run_length(text, at) > MOST_DIGITS for at in places)


def _run_length(text: str, at: int) -> int:
    """Of the numeric characters around a place; stops where it is too long. Counts a few that are letters, as 三."""
    first, last, stop = at, at, MOST_DIGITS + 1
    while first and last - first < stop and text[first - 1].isnumeric():
        first -= 1
    while last + 1 < len(text) and last - first < stop and text[last + 1].isnumeric():
        last += 1
    return last - first + 1


def difference(tokenizer: Tokenizer, fast: FastEncoder, texts: Iterable[str]) -> str | None:
    """The first of `texts` that the two give other ids, in words; None where there is none."""
    for number, text in enumerate(texts, 1):
        expected, got = tokenizer.encode(text, add_special_tokens=False).ids, list(fast.encode(text))
        if expected != got:
            place = next((k for k, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), len(got))
            around = tokenizer.decode(expected[max(0, place - 2) : place + 4], skip_special_tokens=False)
            return f"document {number:,} of the sample, near {around[:60]!r}"
    return None


def _ranks(description: dict[str, Any]) -> dict[bytes, int]:
    """Bytes -> id, which is the order of merging too; of tokens that stand in a text, so not of the special ones."""
    model, special = description["model"], {token["content"] for token in description["added_tokens"]}
    if model["type"] != "BPE" or any(model.get(key) for key in ("unk_token", "byte_fallback", "dropout")):
        raise NotFastError("its model is no byte-level BPE")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise NotFastError("its tokens have prefixes or suffixes")
    vocabulary: dict[str, int] = {token: id_ for token, id_ in model["vocab"].items() if token not in special}
    letters = _letters()
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    made = [vocabulary["".join(merge)] for merge in merges]
    if made != sorted(set(made)):
        raise NotFastError("its ids are not in the order of its merges")
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    try:
        ranks = {bytes(letters[char] for char in token): vocabulary[token] for token in tokens}
    except KeyError as error:
        raise NotFastError(f"a token has {error}, which stands for no byte") from error
    single = [token for token in ranks if len(token) == 1]
    if len(single) != 256 or len(ranks) != len(merges) + 256:
        raise NotFastError("it has tokens that no merge makes")
    return ranks


@cache
def _letters() -> dict[str, int]:
    """Character of a byte-level vocabulary -> the byte that it stands for: those that can be seen stand for themselves,
    the others follow from 256 on, in order (GPT-2's table)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    letters = {chr(byte): byte for byte in seen} | {chr(256 + k): byte for k, byte in enumerate(others)}
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def _expression(description: dict[str, Any]) -> str:
    if description["normalizer"]:
        raise NotFastError("it changes the text first (normalizer)")
    if any(not token["special"] for token in description["added_tokens"]):
        raise NotFastError("it has added tokens that are no special ones")
    steps = description["pre_tokenizer"] or {}
    cuts: list[dict[str, Any]] = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    *splits, last = cuts
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        raise NotFastError("it does not end in a plain byte level")
    if not splits:
        return _GPT_2 if last["use_regex"] else r"[\s\S]+"
    if last["use_regex"] or any(not _is_isolating(split) for split in splits):
        raise NotFastError("its rules do not stand alone")
    rules: tuple[str, ...] = tuple(split["pattern"]["Regex"] for split in splits)
    if rules == RULES:
        return TRINITY_CUTS
    if len(rules) != 1:
        raise NotFastError("its rules are several, and not Trinity's")
    return _with_rest(rules[0])


def _is_isolating(split: dict[str, Any]) -> bool:
    return (
        split["type"] == "Split"
        and split["behavior"] == "Isolated"
        and not split["invert"]
        and "Regex" in split["pattern"]
    )


def _with_rest(rule: str) -> str:
    """What no rule takes is a piece too; tiktoken would lose it."""
    return rf"{rule}|(?:(?!{rule})[\s\S])+"
