"""python -m data_pipelines.tokenizer: what it trains it can verify, and what does not hold is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from data_pipelines.tokenizer.__main__ import main
from data_pipelines.tokenizer.encoder import TextEncoder
from tests.data_pipelines.conftest import TEXTS
from tests.train.formats.gguf_files import small_config, write_small


@pytest.fixture
def lines(tmp_path: Path) -> str:
    """A pattern of two files."""
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return f"{tmp_path}/*.jsonl"


def test_the_vocabulary_has_the_size_that_was_asked_for(lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "tok"
    assert main(["train", "--input", lines, "--out", str(out), "--vocab-size", "512"]) == 0
    assert "tok: 512 ids, " in capsys.readouterr().out
    assert TextEncoder(out).vocab_size == len(AutoTokenizer.from_pretrained(out)) == 512
    (ids,) = TextEncoder(out).encode(["<|reserved_0|> is text"])
    assert max(ids) < 512 - 2
    assert main(["verify", str(out), "--input", lines, "--rows", "512"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[:8].strip() for line in said] == ["holds"] * 4
    assert "the same in 14 texts" in said[3]


def test_a_share_of_each_file_is_read(lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["train", "--input", lines, "--out", str(tmp_path / "tok"), "--vocab-size", "300"]
    assert main([*arguments, "--most-chars", "2"]) == 0
    assert f"merges of {2 * len(TEXTS[0]):,} characters" in capsys.readouterr().out  # one whole document of each


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--vocab-size", "100"], "--vocab-size=100 has no room for 256 bytes and the special tokens: 260"),
        (["--out", "{there}"], "exists already; choose another folder"),
        (["--input", "{there}/none*"], "no file matches --input="),
    ],
)
def test_what_cannot_be_trained_is_said(
    extra: list[str], said: str, lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["train", "--input", lines, "--out", str(tmp_path / "tok")]
    assert main([*arguments, *(one.format(there=tmp_path) for one in extra)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "tok").exists()


def lower(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Lowercase"}


def group_from_the_left(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = r"\p{N}{1,3}"


def leave_a_gap(content: dict[str, Any]) -> None:
    content["added_tokens"].append({**content["added_tokens"][3], "id": 9000, "content": "<|far|>"})
    content["model"]["vocab"]["<|far|>"] = 9000


@pytest.mark.parametrize(
    ("change", "rows", "said"),
    [
        (lower, 300, "FAILED  texts come back as they were: 'The end.' comes back as 'the end.'"),
        (group_from_the_left, 300, "FAILED  digits are grouped in threes from the right: "),
        (leave_a_gap, 10_000, "FAILED  ids have no gap and fit the rows: "),
        (lambda content: None, 100, "FAILED  ids have no gap and fit the rows: "),
    ],
)
def test_what_does_not_hold_is_found(
    change: Callable[[dict[str, Any]], None],
    rows: int,
    said: str,
    tmp_path: Path,
    tokenizer_dir: Path,
    capsys: pytest.CaptureFixture[str],
):
    folder = shutil.copytree(tokenizer_dir, tmp_path / "changed")
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    if change is group_from_the_left:  # with a merge over the edge of a group
        content["model"]["vocab"] |= {"12": 300, "123": 301}
        content["model"]["merges"] += [["1", "2"], ["12", "3"]]
        rows = 302
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert main(["verify", str(folder), "--rows", str(rows)]) == 1
    assert said in capsys.readouterr().out


def test_llama_cpp_reads_the_exported_file_alike_and_another_one_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, _ = write_small(tmp_path, small_config(num_layers=4), dtype="float32")
    assert main(["verify", str(tmp_path / "tokenizer"), "--gguf", str(path)]) == 0
    assert "holds   llama.cpp gives the same ids by " in capsys.readouterr().out
    folder = shutil.copytree(tmp_path / "tokenizer", tmp_path / "other")
    content = json.loads((folder / "tokenizer.json").read_text())
    (a, first), (b, second) = list(content["model"]["vocab"].items())[68:70]
    content["model"]["vocab"] |= {a: second, b: first}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert main(["verify", str(folder), "--gguf", str(path)]) == 1
    assert "FAILED  llama.cpp gives the same ids by " in capsys.readouterr().out
    assert main(["verify", str(folder), "--gguf", str(tmp_path / "none.gguf")]) == 2
