"""The standard library as a corpus: real text that every Python brings along.

    code    modules, without their docstrings
    prose   the docstrings of those modules, the language reference of pydoc, licence and news files
    stem    numeric modules as they are, docstrings of math and cmath; where the test package is installed, the numeric
            tests and their data

The three share no text: what is cut out of one is in another, so that held-out text of one is not learnt from another.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeAlias

import xxhash

from data_pipelines.corpora import Corpus
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.documents import Document

ROOT = Path(sysconfig.get_paths()["stdlib"])

# Tables, installed packages, and what not every build of a Python brings.
_SKIPPED = {"__pycache__", "distutils", "dist-packages", "encodings", "ensurepip", "idle_test", "idlelib"}
_SKIPPED |= {"lib-dynload", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo"}

_NUMERIC = {"_pydatetime", "_pydecimal", "_pylong", "bisect", "calendar", "colorsys", "datetime", "decimal"}
_NUMERIC |= {"fractions", "graphlib", "heapq", "numbers", "random", "statistics", "turtle"}
_NUMERIC_TESTS = {"bisect", "cmath", "colorsys", "complex", "decimal", "float", "fractions", "heapq", "int", "long"}
_NUMERIC_TESTS |= {"math", "math_property", "numeric_tower", "random", "statistics"}
_NUMERIC_DATA = ("*_testcases.txt", "ieee754.txt", "floating_points.txt")
_DECIMAL_DATA_CHARS = 12_000  # of each file: the 60 of them are long and alike

_Documented: TypeAlias = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def stdlib_corpus() -> Corpus:
    """Documents named after their files below the library's folder, in a fixed order."""
    return {"code": _code, "prose": _prose, "stem": _stem}


def stdlib_fingerprint() -> str:
    """Hash of every file that the corpus reads."""
    state = xxhash.xxh3_128(sys.version.encode())
    for path in [*_modules(), *_texts(), *_numeric_modules(), *_numeric_tests(), ROOT / "pydoc_data/topics.py"]:
        state.update(_name(path).encode())
        state.update(path.read_bytes())
    return state.hexdigest()


def split_docstrings(source: str) -> tuple[str, str]:
    """A module's text -> (the program without its docstrings, its docstrings under their qualified names).

    Text that this Python cannot parse counts as a program without docstrings.
    """
    try:
        found = list(_docstrings(ast.parse(source), ()))
    except SyntaxError:
        return source, ""
    cut = {line for _, first, last, _ in found for line in range(first, last + 1)}
    lines = source.split("\n")  # not splitlines(): form feeds end no line for the parser
    program = "\n".join(line for number, line in enumerate(lines, 1) if number not in cut)
    return program, "\n\n".join(f"{name}\n\n{text}" if name else text for name, _, _, text in found)


def _docstrings(node: _Documented, path: tuple[str, ...]) -> Iterator[tuple[str, int, int, str]]:
    """(qualified name, first line, last line, text) of every docstring that can go: with lines of its own, and not the
    whole body of a function."""
    text = ast.get_docstring(node)
    if text and (isinstance(node, ast.Module) or (len(node.body) > 1 and node.body[0].lineno > node.lineno)):
        statement = node.body[0]
        yield ".".join(path), statement.lineno, statement.end_lineno or statement.lineno, text
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _docstrings(child, (*path, child.name))


@cache  # parsing all modules takes seconds, and a preparation reads the corpus several times
def _split(path: Path) -> tuple[str, str]:
    return split_docstrings(_read(path))


def _code() -> Iterator[Document]:
    for path in _modules():
        yield Document(_name(path), _split(path)[0])


def _prose() -> Iterator[Document]:
    for path in _modules():
        if docstrings := _split(path)[1]:
            yield Document(_name(path), docstrings)
    for topic, text in sorted(import_module("pydoc_data.topics").topics.items()):
        yield Document(f"pydoc_data/topics/{topic}", text)
    for path in _texts():
        yield Document(_name(path), _read(path))


def _stem() -> Iterator[Document]:
    for path in [*_numeric_modules(), *_numeric_tests()]:
        text = _read(path)
        yield Document(_name(path), text[:_DECIMAL_DATA_CHARS] if path.suffix == ".decTest" else text)
    for module in map(import_module, ("math", "cmath")):
        functions = sorted(name for name in vars(module) if not name.startswith("_"))
        docs = (inspect.getdoc(getattr(module, name)) for name in functions if callable(getattr(module, name)))
        yield Document(f"{module.__name__}/docstrings", "\n\n".join(filter(None, docs)))


def _modules() -> list[Path]:
    other = _NUMERIC | {path.stem for path in ROOT.glob("_sysconfigdata*.py")}
    return [path for path in _files(".py", _SKIPPED) if path.stem not in other]


def _texts() -> list[Path]:
    return _files(".txt", _SKIPPED - {"idlelib"})  # its news and history are prose


def _files(suffix: str, skipped: set[str]) -> list[Path]:
    """Files below the root in a fixed order; folders to skip are not entered (site-packages may be huge)."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = set(folders) - skipped
        found += [Path(folder, name) for name in names if name.endswith(suffix)]
    return sorted(found)


def _numeric_modules() -> list[Path]:
    return [path for name in sorted(_NUMERIC) if (path := ROOT / f"{name}.py").is_file()]


def _numeric_tests() -> list[Path]:
    tests = ROOT / "test"
    modules = [path for name in sorted(_NUMERIC_TESTS) if (path := tests / f"test_{name}.py").is_file()]
    data = sorted(path for pattern in _NUMERIC_DATA for path in tests.rglob(pattern))
    # ddAdd and dqAdd repeat add.decTest for two fixed widths.
    decimal = [p for p in tests.glob("decimaltestdata/*.decTest") if not re.match("d[dqs][A-Z]", p.name)]
    return [*modules, *data, *sorted(decimal)]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@dataclass(kw_only=True, slots=True)
class StdlibData(CorpusOptions):
    """The standard library of the Python that runs this: sources `code`, `prose`, `stem`."""

    kind: Literal["stdlib"] = "stdlib"
    dir: str = "data/stdlib"

    def source_names(self) -> list[str]:
        return sorted(stdlib_corpus())

    def corpus(self) -> Corpus:
        return stdlib_corpus()

    def fingerprint(self) -> str:
        return stdlib_fingerprint()
