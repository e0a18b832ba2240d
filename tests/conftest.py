"""What all tests take for granted, and what several of them begin with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TABLES = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(scope="session", autouse=True)
def signals_count() -> Iterator[None]:
    """A shell ignores SIGINT in what it runs in the background, nohup SIGHUP, and programs inherit that."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def own_experiment(tmp_path: Path) -> Path:
    """A folder for --config-dir, with experiment=mine: the smoke run with another speed of balancing."""
    folder = tmp_path / "own"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - smoke\n\nrun:\n  name: mine\nbalance:\n  speed: 0.125\n"
    )
    return folder


# What tests measure, as tables after their results: of a test that passes pytest prints nothing else.


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Title -> lines, for tests to fill."""
    return request.config.stash.setdefault(TABLES, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended: its tables are ours."""
    node.config.stash.setdefault(TABLES, {}).update(getattr(node, "workeroutput", {}).get("tables", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["tables"] = session.config.stash.get(TABLES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash.get(TABLES, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
