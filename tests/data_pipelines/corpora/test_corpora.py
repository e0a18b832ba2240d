from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from data_pipelines.corpora.files import FileSource, files_corpus, files_fingerprint
from data_pipelines.corpora.stdlib import split_docstrings, stdlib_corpus, stdlib_fingerprint
from data_pipelines.documents import Document
from data_pipelines.documents.find import find_files, stored_file
from data_pipelines.documents.pieces import read_documents

MODULE = '''"""About the module."""
import os

class A:
    """About A.

    In two paragraphs.
    """
    x = "no docstring"

    def f(self): "on the line of its def"

    def h(self):
        "A body of its own."

    async def g(self):
        \'About g.\'
        return """no docstring"""
'''


def test_docstrings_are_cut_out_as_worked_by_hand():
    program, docstrings = split_docstrings(MODULE)
    assert docstrings == "About the module.\n\nA\n\nAbout A.\n\nIn two paragraphs.\n\nA.g\n\nAbout g."
    assert program == (
        "import os\n\nclass A:\n"
        '    x = "no docstring"\n\n    def f(self): "on the line of its def"\n\n'
        '    def h(self):\n        "A body of its own."\n\n'
        '    async def g(self):\n        return """no docstring"""\n'
    )


def test_a_form_feed_does_not_shift_what_is_cut():
    """str.splitlines() would count one line more for each than the parser does."""
    assert split_docstrings('x = 1\n\x0c\ndef f():\n    """About f."""\n    return x\n') == (
        "x = 1\n\x0c\ndef f():\n    return x\n",
        "f\n\nAbout f.",
    )


def test_a_module_that_does_not_parse_is_all_program():
    assert split_docstrings("print 'python 2'\n") == ("print 'python 2'\n", "")


@pytest.fixture(scope="module")
def stdlib() -> dict[str, list[Document]]:
    return {name: list(read()) for name, read in stdlib_corpus().items()}


def test_the_standard_library_is_large_enough_for_the_smoke_run(stdlib: dict[str, list[Document]]):
    """350k, 275k and 225k tokens at about 4, 4 and 2 bytes each; stem is read several times where tests are missing."""
    chars = {name: sum(len(document.text) for document in documents) for name, documents in stdlib.items()}
    assert chars["code"] > 1_500_000
    assert chars["prose"] > 1_100_000
    assert chars["stem"] > 300_000


def test_documents_have_names_of_their_own_and_sources_share_no_text(stdlib: dict[str, list[Document]]):
    for documents in stdlib.values():
        assert len({document.name for document in documents}) == len(documents) >= 10
    files = {name: {d.name for d in documents if d.name.endswith(".py")} for name, documents in stdlib.items()}
    assert not files["stem"] & (files["code"] | files["prose"])
    texts = {document.name: document.text for document in stdlib["code"]}
    assert "Return a string representing the complete path" not in texts["textwrap.py"]
    assert '"""Wrap a single paragraph of text' not in texts["textwrap.py"]
    assert "def wrap(text, width=70, **kwargs):" in texts["textwrap.py"]
    assert "Wrap a single paragraph of text" in {d.name: d.text for d in stdlib["prose"]}["textwrap.py"]


def test_modules_without_their_docstrings_are_still_programs(stdlib: dict[str, list[Document]]):
    for document in stdlib["code"]:
        ast.parse(document.text)


def test_the_standard_library_is_read_in_the_same_order_every_time(stdlib: dict[str, list[Document]]):
    assert {name: list(read()) for name, read in stdlib_corpus().items()} == stdlib
    assert stdlib_fingerprint() == stdlib_fingerprint()


def write_corpus(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("first")
    (folder / "sub/b.md").write_text("naïve")
    lines = [{"text": "one", "body": "eins"}, {"text": "two", "body": "zwei"}]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps(lines[0]).encode()))


def test_files_are_documents_and_jsonl_lines_are_documents(tmp_path: Path):
    write_corpus(tmp_path)
    everything = FileSource(glob=f"{tmp_path}/**/*.*")
    corpus = files_corpus({"all": everything, "de": FileSource(glob=f"{tmp_path}/c.jsonl", text_key="body")})
    assert list(corpus["all"]()) == [
        Document("a.txt", "first"),
        Document("c.jsonl:1", "one"),
        Document("c.jsonl:2", "two"),
        Document("d.jsonl.gz:1", "one"),
        Document("sub/b.md", "naïve"),
    ]
    assert [document.text for document in corpus["de"]()] == ["eins", "zwei"]


def test_a_moved_corpus_has_the_same_names(tmp_path: Path):
    for place in ("here", "there/deeper"):
        write_corpus(tmp_path / place)
    names = [list(find_files(f"{tmp_path}/{place}/**/*.*", setting="glob")) for place in ("here", "there/deeper")]
    assert names[0] == names[1] == ["a.txt", "c.jsonl", "d.jsonl.gz", "sub/b.md"]


def test_a_corpus_may_lie_on_any_store():
    fsspec.filesystem("memory").pipe_file("/corpus/x/1.txt", b"stored")
    assert list(files_corpus({"s": FileSource(glob="memory://corpus/x/*.txt")})["s"]()) == [Document("1.txt", "stored")]


@pytest.mark.parametrize("read", [files_corpus, files_fingerprint])
def test_a_pattern_without_a_match_is_named_with_its_setting(
    read: Callable[[dict[str, FileSource]], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no file matches") as refusal:
        read({"web": FileSource(glob="texts/*.txt")})
    assert str(refusal.value) == (
        f"no file matches data.sources.web.glob='texts/*.txt' (looked for {tmp_path}/texts/*.txt); "
        "correct the pattern, which starts in the current folder if it is relative"
    )
    with pytest.raises(ValueError, match=r"data\.sources is empty; name one"):
        read({})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"content": "x"}', "line 2: expected text under 'text', got content; set text_key"),
        ('{"text": 3}', "line 2: expected text under 'text'"),
        ('["text"]', "line 2: expected text under 'text', got list"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"x\.jsonl, {message}"):
        list(read_documents(stored_file(str(path)), "x.jsonl"))


def test_the_fingerprint_follows_files_and_settings(tmp_path: Path):
    write_corpus(tmp_path)
    sources = {"s": FileSource(glob=f"{tmp_path}/*.txt")}
    before = files_fingerprint(sources)
    assert files_fingerprint(sources) == before
    assert files_fingerprint({"s": FileSource(glob=f"{tmp_path}/*.txt", text_key="body")}) != before
    (tmp_path / "a.txt").write_text("first, changed")
    assert files_fingerprint(sources) != before


def test_what_is_left_out_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "good"}\n{\n{"text": null}\n')
    read = files_corpus({"web": FileSource(glob=f"{tmp_path}/*.jsonl", undecodable="skip")})["web"]
    assert [*read()] == [*read()] == [Document("x.jsonl:1", "good")]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "data.sources.web: 1 documents, 2 left out as undecodable"
    assert [line.partition(":")[0] for line in said[1:]] == ["  left out", "  left out"]


def test_the_fingerprint_follows_what_becomes_of_the_undecodable(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    made = {
        files_fingerprint({"s": FileSource(glob=f"{tmp_path}/*.txt", undecodable=value)})
        for value in ("error", "skip", "replace")
    }
    assert len(made) == 3


def test_no_file_is_read_before_all_are_known(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "z.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(ValueError, match=r"z\.pdf looks like PDF, which is not read; convert it to JSONL"):
        files_corpus({"web": FileSource(glob=f"{tmp_path}/*")})
