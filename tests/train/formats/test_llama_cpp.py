"""A GGUF file of ours in llama.cpp: it gives the probabilities of our model, and the tokens of our tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.tokenizer.encoder import TextEncoder
from tests.train.afmoe import random_tokens
from tests.train.formats.gguf_files import TEXTS, small_config, write_small
from tests.train.formats.llama_cpp import ask_llama_cpp
from train.formats.gguf_file import Dtype

STRANGE_TEXTS = [
    " \t\r\n\x7f ",
    "naïve Ünïcödé, e\u0301 and \u00e9, \u2028 \ufeff",
    "日本語 and 한국어, mixed1234abc工作",
    "ภาษาไทย, スーパーマーケット, ພາສາລາວ, ភាសាខ្មែរ, မြန်မာဘာသာ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0010ffff",
    "0123456789" * 51,  # longer runs of digits are cut in ours, for speed
    "<|end_of_text|> written by somebody <|pad|>",
    "f(a_b, 'c')[0] != ½ ²\n\n \n  \tx",
]

FLOAT32 = 1e-5  # two orders of summation through eight layers; 2e-6 was seen
BFLOAT16 = 0.06  # llama.cpp rounds what it multiplies with, too; 0.02 was seen
Q8_0 = 0.2  # the same to 8 bits; 0.06 was seen


@pytest.mark.parametrize(
    ("dtype", "changes", "atol"),
    [
        pytest.param("float32", {}, FLOAT32, id="float32"),
        # all experts at once: near the edge of the top k, rounding decides which expert it is
        pytest.param("bfloat16", {"top_k": 8}, BFLOAT16, id="bfloat16"),
        pytest.param("q8_0", {"top_k": 8}, Q8_0, id="q8_0"),
        pytest.param(
            "float32",
            {"num_dense_layers": 0, "num_shared_experts": 2, "route_norm": False, "rope_theta": 500.0},
            FLOAT32,
            id="no dense layer, two shared experts, routing weights as they are",
        ),
        pytest.param(
            "float32",
            {"num_kv_heads": 1, "num_shared_experts": 0, "top_k": 1, "sliding_window": 40, "norm_eps": 1e-3},
            FLOAT32,
            id="one key-value head, no shared expert, top 1, long window",
        ),
    ],
)
def test_llama_cpp_gives_our_probabilities(dtype: Dtype, changes: dict[str, Any], atol: float, tmp_path: Path) -> None:
    config = small_config(**changes)
    path, model = write_small(tmp_path, config, dtype=dtype)
    prompts = [random_tokens(length, vocab_size=300, seed=length) for length in (1, 5, 24)]  # the window is 6
    with torch.no_grad():
        expected = torch.stack([model.eval()(prompt[None])[0, -1].log_softmax(-1) for prompt in prompts])
    assert expected.std() > 0.1  # the comparison sees something
    log_probs, _ = ask_llama_cpp(path, prompts=[prompt.tolist() for prompt in prompts], texts=[])
    torch.testing.assert_close(torch.tensor(log_probs), expected, atol=atol, rtol=0)


def test_llama_cpp_tokenises_as_in_training(tmp_path: Path) -> None:
    path, _ = write_small(tmp_path, small_config(num_layers=4), dtype="float32")
    texts = [*TEXTS, *STRANGE_TEXTS]
    expected = [ids[:-1] for ids in TextEncoder(tmp_path / "tokenizer").encode(texts)]  # without the end of text
    _, ids = ask_llama_cpp(path, prompts=[], texts=texts)
    assert ids == expected


SPACES_BEFORE_DIGITS = ["a  1", "x =   34567", "\n    12", "  ½"]


def test_llama_cpp_parts_the_last_of_several_spaces_from_a_number(tmp_path: Path) -> None:
    """Where llama.cpp departs from the rules of a tokenizer.json, Trinity's too. Pinned, so that a version without it
    is noticed: with the last space encoded apart, the ids are ours."""
    path, _ = write_small(tmp_path, small_config(num_layers=4), dtype="float32")
    encoder = TextEncoder(tmp_path / "tokenizer")
    _, ids = ask_llama_cpp(path, prompts=[], texts=[*SPACES_BEFORE_DIGITS, "a 1", "\t\t1"])
    ours = [found[:-1] for found in encoder.encode([*SPACES_BEFORE_DIGITS, "a 1", "\t\t1"])]
    assert ids[-2:] == ours[-2:]  # one space, and tabs that no merge joins
    for text, theirs, mine in zip(SPACES_BEFORE_DIGITS, ids, ours, strict=False):
        space = text.rindex(" ")
        before, alone, number = (found[:-1] for found in encoder.encode([text[:space], " ", text[space + 1 :]]))
        assert theirs == [*before, *alone, *number] != mine
