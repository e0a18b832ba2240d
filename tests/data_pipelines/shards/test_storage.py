"""data_pipelines/shards/storage.py: what a URI leads to, and what is said where it leads nowhere."""

from __future__ import annotations

import pytest

from data_pipelines.shards.storage import locate, reaching


@pytest.mark.parametrize(
    "uri", ["/data/web", "memory://data/web", "file:///data/web", "FILE:///data/web", "local:///data/web"]
)
def test_a_uri_is_a_store_and_a_path_in_it(uri: str) -> None:
    _, path = locate(uri)
    assert path == "/data/web"


@pytest.mark.parametrize("path", ["/data/File::Spec", "/data/a b#c%20d?e[1]*", "/data/c:/d"])
def test_a_local_path_may_have_any_characters(path: str) -> None:
    assert locate(path)[1] == locate(f"file://{path}")[1] == path


# abfs: a store whose package nobody installs along with this project
@pytest.mark.parametrize(("uri", "reason"), [("abfs://x/y", "adlfs"), ("gopher://x/y", r"known: gopher; give a store")])
def test_a_store_that_is_not_there_is_named_with_its_remedy(uri: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        locate(uri)


def test_an_exception_of_a_store_is_an_error_of_the_address() -> None:
    class ConnectError(Exception):
        """As httpx has it: no OSError."""

    said = r"^hf://b/x cannot be reached \(ConnectError: refused\); check the address"
    with pytest.raises(OSError, match=said), reaching("hf://b/x"):
        raise ConnectError("refused")
    with pytest.raises(ConnectError), reaching("/data"):  # a mistake in the program
        raise ConnectError("refused")
