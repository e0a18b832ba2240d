"""What is not as it was prepared is said, each thing in a line; nothing hides the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from data_pipelines.corpora.files import FilesData, FileSource
from data_pipelines.corpora.preparation import prepare
from data_pipelines.verify import main as verify
from tests.data_pipelines.conftest import MakeShards

DOCUMENTS = [[5, 6, 1], [7, 1]]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for k in range(4):
        (folder / f"{k}.txt").write_text(f"text number {k}. " * 40)
    data = FilesData(dir=str(folder / "data"), vocab_size=270, sources={"web": FileSource(glob=f"{folder}/*.txt")})
    return Path(prepare(data).prepared.tokenizer_dir).parent


@pytest.fixture
def root(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "key"))


def change_tokenizer(root: Path) -> None:
    path = root / "tokenizer/tokenizer.json"
    path.write_text(path.read_text() + "\n")


def swap_sha256(root: Path) -> None:
    path = root / "web/train/manifest.json"
    content = json.loads(path.read_text())
    files = content["shards"][0]["files"]
    files[".ds"]["sha256"], files[".ds.names"]["sha256"] = files[".ds.names"]["sha256"], files[".ds"]["sha256"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: None, []),
        (lambda root: shutil.rmtree(root / "web/held_out"), ["web/held_out has no manifest.json, but prepared.json"]),
        (lambda root: shutil.rmtree(root / "web"), ["web/train has no manifest", "web/held_out has no manifest.json"]),
        (change_tokenizer, ["tokenizer/tokenizer.json has hash"]),
        (lambda root: (root / "tokenizer/tokenizer.json").unlink(), ["tokenizer/tokenizer.json is missing; restore"]),
        (swap_sha256, ["00000.ds: its sha256 is", "00000.ds.names: its sha256 is"]),
        (lambda root: (root / "prepared.json").write_text("["), ["prepared.json is damaged; delete"]),
        (
            lambda root: [(root / f"web/{part}/manifest.json").write_text("") for part in ("train", "held_out")],
            ["web/held_out/manifest.json is no manifest", "web/train/manifest.json is no manifest"],
        ),
    ],
)
@pytest.mark.parametrize("is_local", [True, False])
def test_what_was_prepared_is_all_there(
    change: Callable[[Path], object],
    said: list[str],
    is_local: bool,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(root)
    uri = str(root.parent)
    if not is_local:
        uri = "memory://verify"
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").put(f"{root.parent}/", uri, recursive=True)
    assert verify([uri]) == bool(said)
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(said)
    assert all(f"error: {uri}/key/" in line and words in line for line, words in zip(errors, said, strict=True))
    assert f"{len(said) or 'no'} damaged file" in output.out


def test_a_tokenizer_that_lies_elsewhere_is_said_not_to_be_compared(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root / "tokenizer")
    assert verify([str(root)]) == 0
    assert f"{root}: no tokenizer in it to compare: data.tokenizer named one (hash " in capsys.readouterr().out


def test_shards_behind_a_link_are_compared(
    make_shards: MakeShards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = Path(make_shards("elsewhere", DOCUMENTS))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(shards)
    (tmp_path / "data/gone").symlink_to(tmp_path / "nowhere")
    (shards / "00000.ds").write_bytes(bytes(10))
    assert verify([f"{tmp_path}/data"]) == 1
    output = capsys.readouterr()
    assert f"error: {tmp_path}/data/linked/00000.ds: bytes 0 to 10 differ" in output.err
    assert f"error: {tmp_path}/data/gone is a link to {tmp_path}/nowhere, which leads nowhere" in output.err
    assert "5 tokens, 78 bytes, 2 damaged" in output.out


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read everything")
def test_what_may_not_be_read_is_said_and_the_rest_compared(make_shards: MakeShards, tmp_path: Path) -> None:
    for name in ("a_closed", "b_unreadable", "c_damaged"):
        make_shards(name, DOCUMENTS)
    (tmp_path / "c_damaged/00000.ds").write_bytes(bytes(10))
    (tmp_path / "b_unreadable/00000.ds").chmod(0)
    (tmp_path / "a_closed").chmod(0)
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    command = [sys.executable, "-m", "data_pipelines.verify", str(tmp_path)]
    done = subprocess.run([*rights, *command] if os.geteuid() == 0 else command, capture_output=True, text=True)
    (tmp_path / "a_closed").chmod(0o755)
    assert done.returncode == 1
    for words in ("a_closed may not be listed", "b_unreadable/00000.ds", "c_damaged/00000.ds: bytes 0 to 10 differ"):
        assert f"error: {tmp_path}/{words}" in done.stderr.replace("[Errno 13] Permission denied: '", ""), words
    assert "3 damaged files" in done.stdout


def test_a_manifest_stands_for_its_folder(make_shards: MakeShards, capsys: pytest.CaptureFixture[str]) -> None:
    uri = make_shards("s", DOCUMENTS)
    assert verify([f"{uri}/manifest.json"]) == 0
    assert capsys.readouterr().out.startswith(f"{uri}: 5 tokens")


def test_a_store_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an exception of its own: httpx's, under hf://, are no OSError."""

    def refuse(*_: object, **__: object) -> None:
        raise LookupError("no route to host")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", refuse)
    assert verify(["memory://shards"]) == 2
    assert "error: memory://shards cannot be reached (LookupError: no route to host); check" in capsys.readouterr().err
