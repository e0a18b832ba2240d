"""train/formats/gguf_tokenizer.py: the tokenizer of a folder in the keys of a file, or a reason why not.

Whether llama.cpp finds the same tokens: test_llama_cpp.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from data_pipelines.base.errors import ConfigError
from data_pipelines.tokenizer.bpe import END, SPECIAL_TOKENS
from tests.train.formats.gguf_files import TEXTS, small_tokenizer
from train.formats.gguf_tokenizer import add_tokenizer

VOCAB_SIZE = 320


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_tokenizer(tmp_path / "tokenizer")


def change(folder: Path, **parts: Any) -> None:
    """Set attributes of the tokenizer in `folder`."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(path))


def keys(folder: Path, *, vocab_size: int = VOCAB_SIZE) -> dict[str, Any]:
    writer = gguf.GGUFWriter(None, "afmoe")
    add_tokenizer(writer, folder, vocab_size=vocab_size)
    (values,) = writer.kv_data
    prefix = "tokenizer."
    return {name.removeprefix(prefix): value.value for name, value in values.items() if name.startswith(prefix)}


def test_each_row_of_the_embedding_has_a_token(folder: Path) -> None:
    found = keys(folder)
    assert (found["ggml.model"], found["ggml.pre"]) == ("gpt2", "afmoe")
    tokens, types = found["ggml.tokens"], found["ggml.token_type"]
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    used, unused = len(vocabulary), VOCAB_SIZE - len(vocabulary)
    assert unused > 0
    assert {token: token_id for token_id, token in enumerate(tokens[:used])} == vocabulary
    assert tuple(tokens[:4]) == SPECIAL_TOKENS
    assert list(types) == [TokenType.CONTROL] * 4 + [TokenType.NORMAL] * (used - 4) + [TokenType.UNUSED] * unused
    assert len(set(tokens)) == VOCAB_SIZE  # llama.cpp refuses a list with the same token twice


def test_tokens_and_merges_of_the_file_encode_as_the_folder_does(folder: Path) -> None:
    found = keys(folder)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = {token: token_id for token_id, token in enumerate(found["ggml.tokens"])}
    rebuilt = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in found["ggml.merges"]]))
    rebuilt.pre_tokenizer = original.pre_tokenizer
    for text in TEXTS:
        assert rebuilt.encode(text).ids == original.encode(text).ids


def test_special_tokens_are_those_of_the_folder(folder: Path) -> None:
    found = keys(folder)
    assert [found[f"ggml.{kind}_token_id"] for kind in ("bos", "eos", "padding")] == [0, 1, 2]
    assert not any(name.startswith("ggml.add_") or name == "chat_template" for name in found)


def test_without_a_tokenizer_config_the_end_of_text_is_that_of_the_training(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    assert SPECIAL_TOKENS[keys(folder)["ggml.eos_token_id"]] == END


def test_a_chat_template_comes_along(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": "{{ messages }}"}))
    assert keys(folder)["chat_template"] == "{{ messages }}"


def test_an_added_token_that_is_not_special_is_found_in_text(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    tokenizer.save(str(path))
    found, token_id = keys(folder), tokenizer.token_to_id("<think>")
    assert found["ggml.tokens"][token_id] == "<think>"
    assert found["ggml.token_type"][token_id] == TokenType.USER_DEFINED


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"pre_tokenizer": pre_tokenizers.ByteLevel()}, "does not cut text as Trinity's does"),
        ({"pre_tokenizer": None}, "does not cut text as Trinity's does"),
        ({"normalizer": normalizers.NFC()}, "normalises text"),
    ],
    ids=["cut as GPT-2's", "not cut", "NFC"],
)
def test_what_llama_cpp_would_tokenise_otherwise_is_refused(folder: Path, parts: dict[str, Any], reason: str) -> None:
    change(folder, **parts)
    with pytest.raises(ConfigError, match=reason) as refused:
        keys(folder)
    assert str(folder / "tokenizer.json") in str(refused.value)
    assert "--format hf" in str(refused.value)


def test_another_kind_of_tokenizer_is_refused(folder: Path) -> None:
    Tokenizer(models.WordLevel({END: 0}, unk_token=END)).save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match="is WordLevel; a GGUF file of this architecture needs BPE"):
        keys(folder)


def test_more_ids_than_the_model_has_rows_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 29\d ids, more than model\.vocab_size=290"):
        keys(folder, vocab_size=290)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        keys(tmp_path)
