"""What the tests of launch/ take for granted."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def ctrl_c_counts() -> Iterator[None]:
    """A shell ignores SIGINT in what it runs in the background, such as these tests, and programs inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
