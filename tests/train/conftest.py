"""What tests measure, as tables after their results: of a test that passes pytest prints nothing else."""

from __future__ import annotations

import pytest

TABLES = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Title -> lines, for tests to fill."""
    return request.config.stash.setdefault(TABLES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash.get(TABLES, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
