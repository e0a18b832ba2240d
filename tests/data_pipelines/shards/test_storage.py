"""data_pipelines/shards/storage.py: what a URI leads to, and what is said where it leads nowhere."""

from __future__ import annotations

import pytest

from data_pipelines.shards.storage import locate


@pytest.mark.parametrize("uri", ["/data/web", "memory://data/web", "file:///data/web"])
def test_a_uri_is_a_store_and_a_path_in_it(uri: str) -> None:
    _, path = locate(uri)
    assert path == "/data/web"


@pytest.mark.parametrize("path", ["/data/File::Spec", "/data/a b#c%20d?e[1]*", "/data/c:/d"])
def test_a_local_path_may_have_any_characters(path: str) -> None:
    assert locate(path)[1] == locate(f"file://{path}")[1] == path


# abfs: a store whose package nobody installs along with this project
@pytest.mark.parametrize(("uri", "reason"), [("abfs://x/y", "adlfs"), ("gopher://x/y", "Protocol not known: gopher")])
def test_a_store_that_is_not_there_is_named_with_its_remedy(uri: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        locate(uri)
