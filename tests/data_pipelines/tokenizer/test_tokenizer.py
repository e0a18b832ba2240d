from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from data_pipelines.corpora.stdlib import ROOT
from data_pipelines.tokenizer import bpe
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
    assert list(ids).count(encoder.eos_id) == 1


def test_special_tokens_come_first_and_the_vocabulary_is_not_exceeded(tokenizer_dir: Path):
    encoder = TextEncoder(tokenizer_dir)
    vocabulary = json.loads((tokenizer_dir / "tokenizer.json").read_text())["model"]["vocab"]
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert encoder.eos_id == 1
    assert encoder.vocab_size == len(vocabulary) <= 300


def test_digits_are_grouped_by_three_from_the_right():
    tokenizer = train_tokenizer(["1 12 123 1234 234 567 999 " * 50], vocab_size=400)
    assert tokenizer.encode("1234567").tokens == ["1", "234", "567"]


@pytest.mark.parametrize("before", ["", "a", "x =", "\n", "工"])
def test_spaces_before_a_digit_stay_together(before: str):
    """Digits are cut out first, so that nothing follows the spaces: `\\s+(?!\\S)` takes all of them. Before a word the
    last space goes to the word."""
    pieces = train_tokenizer(["a"], vocab_size=300).pre_tokenizer.pre_tokenize_str
    assert [piece for piece, _ in pieces(f"{before}   12")][-2:] == ["ĠĠĠ", "12"]
    assert [piece for piece, _ in pieces(f"{before}   ab")][-2:] == ["ĠĠ", "Ġab"]


def random_word(length: int, letters: str = "ACGT") -> str:
    return "".join(random.Random(0).choices(letters, k=length))


def test_a_word_without_an_end_takes_no_quadratic_time(tokenizer_dir: Path):
    """400,000 letters: minutes of training if each merge moved the rest of the word. Encoding is not cut at all."""
    word = random_word(400_000)
    tokenizer = train_tokenizer([word, "a few ordinary words " * 50], vocab_size=400)
    assert tokenizer.get_vocab_size() == 400
    assert tokenizer.pre_tokenizer.pre_tokenize_str(word) == [(word, (0, len(word)))]
    assert tokenizer.decode(tokenizer.encode(word).ids) == word


def test_words_up_to_1024_characters_are_learnt_from_whole():
    """The merge across the cut is not learnt from a longer word: ...|xy would be the only pair of x and y."""
    whole, cut = (train_tokenizer(["q" * length + "xy "] * 2, vocab_size=300) for length in (1022, 1023))
    assert "xy" in whole.get_vocab()
    assert "xy" not in cut.get_vocab()


def test_ordinary_text_gives_the_tokenizer_that_it_gives_uncut(monkeypatch: pytest.MonkeyPatch):
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("a*.py"))]
    assert sum(map(len, texts)) > 200_000
    cut = train_tokenizer(texts, vocab_size=1000).to_str()
    monkeypatch.setattr(bpe, "_LONGEST_WORD_IN_TRAINING", r"[\s\S]+")
    assert train_tokenizer(texts, vocab_size=1000).to_str() == cut


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


def truncate(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(max_length=16)


def pad(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=200)


def drop(tokenizer: Tokenizer) -> None:
    tokenizer.model.dropout = 0.5  # type: ignore[attr-defined]


def add_begin(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A <|end_of_text|>",
        special_tokens=[("<|begin_of_text|>", 0), ("<|end_of_text|>", 1)],
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (truncate, "truncation to 16 tokens switched off: a document is all of its tokens, and no others"),
        (pad, "padding switched off"),
        (drop, "dropout=0.5 switched off"),
        (add_begin, ""),  # nothing to say: it acts only where special tokens are asked for
    ],
)
def test_a_document_is_all_of_its_tokens_and_no_others(
    change: Callable[[Tokenizer], None],
    said: str,
    tmp_path: Path,
    tokenizer_dir: Path,
    capsys: pytest.CaptureFixture[str],
):
    folder = shutil.copytree(tokenizer_dir, tmp_path / "changed")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = [*TEXTS, "short", ""]
    expected = list(TextEncoder(tokenizer_dir).encode(texts))
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert list(TextEncoder(folder).encode(texts)) == expected
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)  # once, not each time
    assert all(line.startswith(f"{folder}/tokenizer.json: {said}") for line in lines)


def lower(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def strip(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Strip()


def replace(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Replace("\u2026", "...")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lower, "loses text: 'xAy' comes back as 'xay', and the model learns no other"),
        (strip, r"loses text: ' a  b\n\n\tc \n' comes back as 'a  b\n\n\tc', and"),
        (replace, "loses text: '\u201cq\u201d \u2026\u2014' comes back as '\u201cq\u201d ...\u2014', and"),
        ("without a byte", "loses text: 'x$y' comes back as 'xy', and"),
        ("not special", "'<|end_of_text|>' written in a document ends it there, since it is not marked as special"),
    ],
)
def test_what_a_tokenizer_loses_is_said_once(
    change: Callable[[Tokenizer], None] | str,
    said: str,
    tmp_path: Path,
    tokenizer_dir: Path,
    capsys: pytest.CaptureFixture[str],
):
    folder = shutil.copytree(tokenizer_dir, tmp_path / "changed")
    content = json.loads((folder / "tokenizer.json").read_text())
    if change == "without a byte":
        content["model"]["vocab"]["unused"] = content["model"]["vocab"].pop("$")
    elif change == "not special":
        content["added_tokens"][1]["special"] = False
    tokenizer = Tokenizer.from_str(json.dumps(content))
    if callable(change):
        change(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    for quiet in (True, False, False):
        TextEncoder(folder, quiet=quiet)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}/tokenizer.json: {said}")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json is no tokenizer that this version of `tokenizers` reads \("),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is not a JSON object \("),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json is not a JSON object \("),
        ("tokenizer_config.json", "[" * 100_000, r"tokenizer_config\.json is not a JSON object \("),
        ("tokenizer_config.json", '{"eos_token": 1}', r"name one as eos_token in tokenizer_config\.json \(got 1\)"),
        ("tokenizer_config.json", '{"eos_token": ["a"]}', r"name one as eos_token in .* \(got \['a'\]\)"),
        ("tokenizer_config.json", '{"eos_token": {"a": 1}}', r"no end-of-text token; name one as eos_token"),
        ("tokenizer_config.json", '{"eos_token": {"content": 2}}', r"name one as eos_token in .* \(got 2\)"),
        ("tokenizer.json", Tokenizer(models.BPE()).to_str(), r"tokenizer\.json has no token in it; restore it"),
        (
            "tokenizer.json",
            Tokenizer(models.WordLevel({"<|end_of_text|>": 0})).to_str(),
            r"cannot tokenise every text \(.*\[UNK\].*\); take a tokenizer that can",
        ),
    ],
)
def test_a_damaged_file_of_a_tokenizer_is_named(
    file: str, content: str, said: str, tmp_path: Path, tokenizer_dir: Path
):
    folder = shutil.copytree(tokenizer_dir, tmp_path / "damaged")
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=said):
        TextEncoder(folder)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist; expected the folder of a Hugging Face"):
        TextEncoder(tmp_path)


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path, tokenizer_dir: Path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no end-of-text token; name one as eos_token"):
        TextEncoder(tmp_path)
