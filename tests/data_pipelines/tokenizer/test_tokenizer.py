from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data_pipelines.tokenizer.bpe import SPECIAL_TOKENS, save_tokenizer, train_tokenizer
from data_pipelines.tokenizer.encoder import TextEncoder
from tests.data_pipelines.conftest import TEXTS

STRANGE_TEXTS = [
    "",
    " \t\r\n\x00\x7f ",
    "naïve Ünïcödé, e\u0301 and \u00e9, \u2028 \ufeff",
    "日本語とไทยและ한국어, mixed",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0010ffff",
    "0123456789" * 300,
    "<|end_of_text|> written by somebody <|pad|>",
    "x" * 5000 + "\n" * 50,
]


@pytest.mark.parametrize("text", STRANGE_TEXTS)
def test_strange_text_comes_back_as_it_was(tokenizer_dir: Path, text: str):
    encoder = TextEncoder(tokenizer_dir)
    (ids,) = encoder.encode([text])
    assert ids[-1] == encoder.eos_id
    assert encoder.decode(ids[:-1]) == text


def test_random_unicode_comes_back_as_it_was(tokenizer_dir: Path):
    encoder, rng = TextEncoder(tokenizer_dir), random.Random(0)
    planes = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    texts = ["".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(50)) for _ in range(300)]
    assert [encoder.decode(ids[:-1]) for ids in encoder.encode(texts)] == texts


def test_a_special_token_written_in_a_text_is_text(tokenizer_dir: Path):
    encoder = TextEncoder(tokenizer_dir)
    (ids,) = encoder.encode(["a <|end_of_text|> b"])
    assert ids.count(encoder.eos_id) == 1


def test_special_tokens_come_first_and_the_vocabulary_is_not_exceeded(tokenizer_dir: Path):
    encoder = TextEncoder(tokenizer_dir)
    vocabulary = json.loads((tokenizer_dir / "tokenizer.json").read_text())["model"]["vocab"]
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert encoder.eos_id == 1
    assert encoder.vocab_size == len(vocabulary) <= 300


def test_digits_are_grouped_by_three_from_the_right():
    tokenizer = train_tokenizer(["1 12 123 1234 234 567 999 " * 50], vocab_size=400)
    assert tokenizer.encode("1234567").tokens == ["1", "234", "567"]


def test_a_page_of_digits_takes_no_quadratic_time(tokenizer_dir: Path):
    """200,000 digits: a minute if every group looked ahead to the end of the run (2.1 s for 40,000)."""
    encoder = TextEncoder(tokenizer_dir)
    text = "7" * 200_000
    (ids,) = encoder.encode([text])
    assert encoder.decode(ids[:-1]) == text


def test_the_same_texts_give_the_same_tokenizer(tmp_path: Path):
    for name in ("a", "b"):
        save_tokenizer(train_tokenizer(iter(TEXTS), 320), tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_transformers_loads_the_folder_and_agrees(tokenizer_dir: Path):
    theirs, ours = AutoTokenizer.from_pretrained(tokenizer_dir), TextEncoder(tokenizer_dir)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    for text in [*TEXTS, *STRANGE_TEXTS[:6]]:
        (ids,) = ours.encode([text])
        assert theirs.encode(text, add_special_tokens=False) == ids[:-1]
        assert theirs.decode(ids[:-1]) == text


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist; expected the folder of a Hugging Face"):
        TextEncoder(tmp_path)


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path, tokenizer_dir: Path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no end-of-text token; name one as eos_token"):
        TextEncoder(tmp_path)
