"""What must hold of a tokenizer before anything is trained with it, each with the evidence for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from data_pipelines.tokenizer.encoder import TextEncoder
from data_pipelines.tokenizer.fast import MOST_DIGITS
from data_pipelines.tokenizer.file import open_tokenizer
from data_pipelines.tokenizer.llama_cpp import ids_by_llama_cpp

TEXTS = (
    *("The end.", " a  b\n\n\tc \n", "A\u00c9e\u0301 \ufb01 x\u00b2", "\u201cq\u201d \u2026\u2014", "x = 1.50e-3;"),
    "\u65e5\u672c\u8a9e\u3068\u0e44\u0e17\u0e22 and \ud55c\uad6d\uc5b4, mixed1234abc\u5de5\u4f5c",
    *("f(a_b, 'c')[0] != \u00bd \u00b2\n\n \n  \tx", "\U0001f469\u200d\U0001f4bb \U0010ffff", "0123456789" * 51),
    "<|end_of_text|> written by somebody <|pad|>",
)
NUMBERS = tuple("1234567890"[:length] for length in range(1, 11))


class Finding(NamedTuple):
    claim: str
    problem: str
    """Empty where the claim holds."""
    evidence: str = ""


def check(
    folder: Path, texts: Sequence[str], *, rows: int | None = None, gguf: Path | None = None
) -> Iterator[Finding]:
    """Raises ValueError where the folder has no tokenizer that can be used, or llama.cpp cannot read `gguf`."""
    encoder = TextEncoder(folder, quiet=True)
    tokenizer = open_tokenizer(folder).tokenizer
    ids = [list(found)[:-1] for found in encoder.encode(texts)]
    num_chars = sum(map(len, texts))
    sample = f"{len(texts):,} texts, {num_chars:,} characters, {sum(map(len, ids)):,} tokens"
    yield Finding("texts come back as they were", _lost(encoder, texts, ids), sample)
    yield Finding("digits are grouped in threes from the right", _grouping(encoder), ", ".join(NUMBERS[3:8]))
    yield _id_range(tokenizer, encoder, ids, rows)
    reason = TextEncoder(folder, quiet=True).go_fast(texts)
    yield Finding("tiktoken gives the same ids, or is not used", "", reason or f"the same in {sample}")
    if gguf:
        yield _same_as_llama_cpp(gguf, texts, ids)


def _lost(encoder: TextEncoder, texts: Sequence[str], ids: list[list[int]]) -> str:
    for text, found in zip(texts, ids, strict=True):
        if (got := encoder.decode(found)) != text:
            at = next((k for k, (a, b) in enumerate(zip(text, got, strict=False)) if a != b), min(len(text), len(got)))
            return f"{text[max(0, at - 10) : at + 20]!r} comes back as {got[max(0, at - 10) : at + 20]!r}"
    return ""


def _grouping(encoder: TextEncoder) -> str:
    for number, found in zip(NUMBERS, encoder.encode(NUMBERS), strict=True):
        tokens = [encoder.decode([token_id]) for token_id in list(found)[:-1]]
        left = len(number)
        for token in tokens:  # a token may be a part of a group, never of two
            if (left - 1) // 3 != (left - len(token)) // 3:
                return f"{number} becomes {'|'.join(tokens)}"
            left -= len(token)
    return ""


def _id_range(tokenizer: Tokenizer, encoder: TextEncoder, ids: list[list[int]], rows: int | None) -> Finding:
    claim = "ids have no gap and fit the rows"
    vocabulary = set(tokenizer.get_vocab().values())
    if missing := sorted(set(range(encoder.vocab_size)) - vocabulary):
        return Finding(claim, f"{len(missing):,} ids below {encoder.vocab_size:,} are no token, such as {missing[0]:,}")
    if rows is not None and encoder.vocab_size > rows:
        return Finding(claim, f"{encoder.vocab_size:,} ids, but --rows={rows:,}")
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if met := sorted(special & {token_id for found in ids for token_id in found}):
        return Finding(claim, f"a text becomes the special token {tokenizer.id_to_token(met[0])!r}")
    return Finding(claim, "", f"{encoder.vocab_size:,} ids, {len(special):,} special, end of text {encoder.eos_id:,}")


def _same_as_llama_cpp(gguf: Path, texts: Sequence[str], ids: list[list[int]]) -> Finding:
    """llama.cpp parts the last of several spaces from a number, and groups longer runs of digits from their end: known,
    and counted apart."""
    claim = f"llama.cpp gives the same ids by {gguf}"
    theirs, known = ids_by_llama_cpp(gguf, texts), 0
    for text, expected, got in zip(texts, ids, theirs, strict=True):
        if expected == got:
            continue
        if not _is_known(text):
            return Finding(claim, f"{text[:60]!r} becomes {got[:12]}, not {expected[:12]}")
        known += 1
    return Finding(claim, "", f"{len(texts) - known:,} texts; {known:,} differ by spaces before a number, as is known")


def _is_known(text: str) -> bool:
    return bool(re.search(rf"\s\s[^\W\d_]?[\d\u00b2\u00bd]|\d{{{MOST_DIGITS + 1}}}", text))
