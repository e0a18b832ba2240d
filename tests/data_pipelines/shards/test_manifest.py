"""A manifest that contradicts itself is refused when it is read, in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.shards.manifest import DataError, Manifest
from data_pipelines.verify import main as verify
from tests.data_pipelines.conftest import MakeShards


def without_ends(content: dict[str, Any]) -> None:
    del content["shards"][0]["files"][".ds.index"]


def with_more_documents(content: dict[str, Any]) -> None:
    content["shards"][0]["documents"] = 2**46


def with_fewer_hashes(content: dict[str, Any]) -> None:
    content["shards"][0]["files"][".ds.names"]["blocks"] = []


def without_tree(content: dict[str, Any]) -> None:
    content["shards"][0]["tree"] = None


def without_hashes(content: dict[str, Any]) -> None:
    del content["shards"][0]["files"][".ds.hashes"]


def with_other_blocks(content: dict[str, Any]) -> None:
    content["shards"][0]["tree"]["block_bytes"] = 4


def with_half_tokens(content: dict[str, Any]) -> None:
    content["shards"][0]["tree"]["block_bytes"] = 63


def with_blocks_of_nothing(content: dict[str, Any]) -> None:
    content["block_bytes"] = 0


def without_shards(content: dict[str, Any]) -> None:
    content["shards"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_shards, r"shards=\[\]: must name at least one"),
        (without_ends, r"shard 00000: no \.ds\.index among its files"),
        (with_more_documents, "shard 00000: the ends of 70,368,744,177,664 documents are not 16 bytes"),
        (with_fewer_hashes, r"00000\.ds\.names: 12 bytes are 1 blocks, got 0 of them"),
        (without_tree, r"00000\.ds: 10 bytes are 1 blocks, got 0 of them"),
        (without_hashes, r"shard 00000: no \.ds\.hashes among its files"),
        (with_other_blocks, "shard 00000: the tree of 3 blocks is not 24 bytes"),
        (with_half_tokens, r"shard 00000: tree\.block_bytes=63: no multiple of 2"),
        (with_blocks_of_nothing, "block_bytes=0: must be at least 1"),
    ],
)
def test_a_contradiction_is_named(
    make_shards: MakeShards, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], message: str
):
    path = Path(make_shards("s", [[5, 6, 1], [7, 1]]), "manifest.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        Manifest.load(str(path.parent))
    assert verify([str(path.parent)]) == 1
    assert "manifest.json is no manifest" in capsys.readouterr().err


def test_a_manifest_of_a_later_version_is_not_to_be_deleted(make_shards: MakeShards) -> None:
    uri = make_shards("s", [[5, 6, 1]])
    path = Path(uri) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 4}))
    with pytest.raises(DataError, match="has version 4, which a later version of this program wrote") as caught:
        Manifest.load(uri)
    assert "delete" not in str(caught.value)
