"""Who may import whom: no circle, one direction between packages, rooms of a size that a reader can survey.

Every import counts, also those inside of functions and for types only: they are what a reader follows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("train", "data_pipelines", "launch")
FORBIDDEN = {"data_pipelines": ("train", "launch"), "train": ("launch",)}
"""Package -> the packages that it does not import."""
MAX_FILES = 12
MAX_CHAIN = 9

Imports = dict[str, dict[str, int]]
"""Importer -> what it imports -> line."""


def read_imports(root: Path) -> Imports:
    """Of every file of PACKAGES, as paths from `root`."""
    files = {path.relative_to(root).as_posix() for package in PACKAGES for path in (root / package).rglob("*.py")}
    return {file: dict(imports_of(root / file, files)) for file in sorted(files)}


def imports_of(path: Path, files: set[str]) -> Iterator[tuple[str, int]]:
    """(imported file, line); a package counts as its __init__.py."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [name.name for name in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
        for name in names:
            stem = name.replace(".", "/")
            yield from ((file, node.lineno) for file in (f"{stem}.py", f"{stem}/__init__.py") if file in files)


def folders(imports: Imports) -> dict[str, set[str]]:
    """Folder -> the other folders that its files import. A program, which nobody imports, stands for itself."""
    found: dict[str, set[str]] = {}
    for file, imported in imports.items():
        folder = file if file.endswith("/__main__.py") else file.rpartition("/")[0]
        found.setdefault(folder, set()).update({other.rpartition("/")[0] for other in imported} - {folder})
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A way from a node back to itself; empty where there is none."""
    finished: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in finished:
            return []
        for following in sorted(graph.get(node, ())):
            if found := visit(following, [*way, node]):
                return found
        finished.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def longest_chain(graph: Mapping[str, set[str]]) -> list[str]:
    """The longest way through a graph without circles."""
    chains: dict[str, list[str]] = {}

    def from_(node: str) -> list[str]:
        if node not in chains:
            chains[node] = [node, *max((from_(following) for following in graph.get(node, ())), key=len, default=[])]
        return chains[node]

    return max((from_(node) for node in graph), key=len)


def violations(imports: Imports) -> list[str]:
    """Each line that breaks a rule, and the rule."""
    problems = [
        f"{file}:{line}: {package} must not import {other.partition('/')[0]} (here {other})"
        for file, imported in imports.items()
        for other, line in imported.items()
        if other.partition("/")[0] in FORBIDDEN.get(package := file.partition("/")[0], ())
    ]
    by_file = {file: set(imported) for file, imported in imports.items()}
    for kind, graph in (("files", by_file), ("folders", folders(imports))):
        if way := circle(graph):
            problems.append(f"a circle of {kind}: {' -> '.join(way)}{_lines(imports, way)}")
    return problems


def _lines(imports: Imports, way: list[str]) -> str:
    """The lines that close a circle."""
    steps = set(pairwise(way))
    lines = [
        f"\n  {file}:{line} imports {other}"
        for file, imported in imports.items()
        for other, line in imported.items()
        if (file, other) in steps or (file.rpartition("/")[0], other.rpartition("/")[0]) in steps
    ]
    return "".join(lines)


@pytest.fixture(scope="module")
def imports() -> Imports:
    return read_imports(ROOT)


def test_no_import_breaks_a_rule(imports: Imports) -> None:
    assert not violations(imports), "\n".join(violations(imports))


def test_no_chain_of_folders_is_longer_than_a_reader_can_follow(imports: Imports) -> None:
    chain = longest_chain(folders(imports))
    assert len(chain) <= MAX_CHAIN, " -> ".join(chain)


def test_no_folder_has_more_files_than_a_reader_can_survey(imports: Imports) -> None:
    rooms: dict[str, list[str]] = {}
    for file in imports:
        rooms.setdefault(file.rpartition("/")[0], []).append(file)
    assert not {folder: len(files) for folder, files in rooms.items() if len(files) > MAX_FILES}


@pytest.mark.parametrize(
    ("importer", "line", "said"),
    [
        (
            "data_pipelines/plan/plan.py",
            "from train.schedule.timeline import Timeline",
            "data_pipelines must not import",
        ),
        ("train/optim/muon.py", "from launch.ranks import launch_ranks", "train must not import launch"),
        ("train/schedule/amounts.py", "from train.schedule.timeline import Timeline", "a circle of files"),
        ("train/loss/sums.py", "from train.loop.totals import Totals", "a circle of folders"),
    ],
)
def test_a_planted_violation_is_found_with_its_line(tmp_path: Path, importer: str, line: str, said: str) -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    planted = tmp_path / importer
    text = planted.read_text(encoding="utf-8")
    planted.write_text(f"{text}\n\ndef planted():\n    {line}\n", encoding="utf-8")
    where = f"{importer}:{len(text.splitlines()) + 4}"
    assert any(said in problem and where in problem for problem in violations(read_imports(tmp_path)))
