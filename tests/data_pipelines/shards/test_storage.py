"""data_pipelines/shards/storage.py: what a URI leads to, and what is said where it leads nowhere."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.shard import RangeFile
from data_pipelines.shards.storage import WAITS_S, locate, reaching


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


class Failing:
    """memory:// as it is when a network fails `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, error: Exception):
        store = type(fsspec.filesystem("memory"))
        fsspec.filesystem("memory").pipe_file("/failing/file", b"0123456789")
        self.tries, self.waits, cat_file = 0, list[float](), store.cat_file

        def fail(*args: object, **kwargs: object) -> bytes:
            self.tries += 1
            if self.tries <= times:
                raise error
            return cat_file(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "cat_file", fail)
        monkeypatch.setattr("time.sleep", self.waits.append)


class ServerError(Exception):
    """As aiohttp has it: no OSError."""


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError("peer"), ServerError("503")])
def test_a_store_that_fails_is_asked_again_after_growing_waits_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    failing = Failing(monkeypatch, 3, error)
    assert RangeFile("memory://failing/file", 10).read(2, 5) == b"234"
    assert failing.tries == 4
    assert failing.waits == sorted(set(failing.waits)) == list(WAITS_S[:3])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memory://failing/file")
    assert line.endswith("trying again, for 80 s")


def test_a_store_that_goes_on_failing_is_an_error_that_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, 99, TimeoutError())
    with pytest.raises(OSError, match=r"memory://failing/file cannot be read, tried 5 times: TimeoutError\(\)"):
        RangeFile("memory://failing/file", 10).read(2, 5)
    assert failing.waits == list(WAITS_S)


@pytest.mark.parametrize("error", [FileNotFoundError("file"), PermissionError("file")])
def test_what_no_second_try_mends_is_said_at_once(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    failing = Failing(monkeypatch, 99, error)
    with pytest.raises(OSError, match="file"):
        RangeFile("memory://failing/file", 10).read(2, 5)
    assert (failing.tries, failing.waits) == (1, [])


def test_a_local_file_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(DataError, match="gone is missing; restore it"):
        RangeFile(f"{tmp_path}/gone", 10).read(2, 5)
    with pytest.raises(IsADirectoryError):
        RangeFile(str(tmp_path), 10).read(2, 5)
    assert not waits
