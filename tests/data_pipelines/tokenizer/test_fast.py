"""tiktoken gives the ids of `tokenizers`, or is not used."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from data_pipelines.corpora.stdlib import ROOT
from data_pipelines.tokenizer import fast
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from data_pipelines.tokenizer.encoder import TextEncoder
from data_pipelines.tokenizer.fast import FastEncoder, NotFastError, difference, has_long_number
from tests.data_pipelines.conftest import TEXTS

ODD = [
    *("a", "b", " ", "  ", "\n", "\r\n", "\t", "1", "12", "123456", ".", "+", "_", "'s", "(", "\u4e00", "\ud55c"),
    *(
        "\u0301",
        "\u3000",
        "\u00a0",
        "\x85",
        "\u0e51",
        "\u30fb",
        "\u00bd",
        "\0",
        "\x07",
        "\u200b",
        "\ufeff",
        "\U0010ffff",
    ),
    *("\U0010ffff", "\U0001f469\u200d", "<|end_of_text|>", "\u0e01", "\u2028"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with some thousand merges."""
    folder = tmp_path_factory.mktemp("real")
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("[a-c]*.py"))]
    save_tokenizer(train_tokenizer([*texts, *ODD], 4000), folder)
    return folder


def encoders(folder: Path) -> tuple[TextEncoder, TextEncoder]:
    """The reference and the fast one."""
    reference, quick = TextEncoder(folder), TextEncoder(folder)
    assert quick.go_fast(TEXTS) is None
    assert (reference.backend, quick.backend) == ("tokenizers", "tiktoken")
    return reference, quick


def assert_same(folder: Path, texts: list[str]) -> None:
    reference, quick = encoders(folder)
    for text, expected, got in zip(texts, reference.encode(texts), quick.encode(texts), strict=True):
        assert list(got) == list(expected), text[:200]


def test_the_ids_of_every_character_are_the_same(real: Path):
    """Every 23rd of all code points, alone and between others: the Unicode tables of two engines."""
    rng = random.Random(0)
    points = [chr(point) for point in range(0, 0x110000, 23) if not 0xD800 <= point < 0xE000]
    assert_same(real, [f"{char} {rng.choice(ODD)}{char}{rng.choice(ODD)}" for char in points])


def test_the_ids_of_strings_of_odd_characters_are_the_same(real: Path):
    rng = random.Random(1)
    assert_same(real, ["".join(rng.choices(ODD, k=rng.randrange(1, 24))) for _ in range(5000)])


def test_the_ids_of_source_text_are_the_same(real: Path):
    assert_same(real, [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("[d-h]*.py"))])


@pytest.mark.parametrize("unit", [" ", "\0", "7", "\u00bd", "=", "a", "\n", "\u4e00", " \0"])
def test_a_page_of_one_character_takes_no_quadratic_time(unit: str, real: Path):
    """1,000,000 spaces and NULs are more than tiktoken's engine takes; 100,000 digits took it 55 s."""
    assert_same(real, [unit * 1_000_000])


@pytest.mark.parametrize(("length", "is_long"), [(509, False), (510, False), (511, True), (512, True), (2000, True)])
def test_a_long_number_is_found_wherever_it_stands(length: int, is_long: bool, real: Path):
    texts = ["a" * before + "7" * length + " b" * after for before in (0, 1, 300, 509, 510, 511) for after in (0, 700)]
    assert [has_long_number(text) for text in texts] == [is_long] * len(texts)
    assert_same(real, texts)


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> Tokenizer:
    content = json.loads((folder / "tokenizer.json").read_text())
    how(content)
    return Tokenizer.from_str(json.dumps(content))


GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA_3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


@pytest.mark.parametrize("cut", [GPT_2, LLAMA_3], ids=["GPT-2", "Llama 3"])
def test_other_ways_of_cutting_give_the_same_ids(cut: pre_tokenizers.PreTokenizer, real: Path):
    tokenizer, rng = Tokenizer.from_file(str(real / "tokenizer.json")), random.Random(2)
    tokenizer.pre_tokenizer = cut
    tokenizer.encode_special_tokens = True
    texts = ["".join(rng.choices(ODD, k=rng.randrange(1, 24))) for _ in range(3000)]
    assert difference(tokenizer, FastEncoder(tokenizer), texts) is None


def test_a_rule_that_the_two_engines_read_otherwise_is_found_and_not_used(real: Path, monkeypatch: pytest.MonkeyPatch):
    """Were digits grouped from the left, most texts would be the same."""
    monkeypatch.setattr(fast, "TRINITY_CUTS", fast.TRINITY_CUTS.replace(r"(?=(?:\p{N}{3})*(?!\p{N}))", ""))
    encoder = TextEncoder(real)
    why_not = encoder.go_fast(["no digits", "123", "it cost 1234567 in all"])
    assert why_not is not None
    assert why_not.startswith("it gives other ids in document 3 of the sample, near ")
    assert encoder.backend == "tokenizers"


def test_merges_that_are_not_learnt_in_the_order_of_ids_are_not_said_in_ranks(real: Path):
    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        (first, a), (second, b) = list(vocabulary.items())[-2:]
        vocabulary[first], vocabulary[second] = b, a

    with pytest.raises(NotFastError, match="its ids are not in the order of its merges"):
        FastEncoder(change(real, swap))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda c: c["added_tokens"][3].update(special=False), "it has added tokens that are no special ones"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "it changes the text first"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][-1].update(add_prefix_space=True), "plain byte level"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "its rules do not stand alone"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"].pop(0), "its rules are several, and not Trinity's"),
        (lambda c: c["model"].update(byte_fallback=True), "its model is no byte-level BPE"),
    ],
)
def test_what_one_expression_cannot_say_is_refused_with_its_reason(
    how: Callable[[dict[str, Any]], object], why: str, real: Path
):
    with pytest.raises(NotFastError, match=why):
        FastEncoder(change(real, how))
