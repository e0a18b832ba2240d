"""The slot for a format of shards: a class and its name are enough."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipelines.batches.held_out import HeldOutWindows
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.explain import explain_window, step_digest
from data_pipelines.shards.prepared import FORMATS, Prepared, ShardSource
from data_pipelines.shards.source import Place, TokenSource
from tests.data_pipelines.batches.test_loader import L, loader_of, plan_of
from tests.data_pipelines.conftest import opened


class Counted(NamedTuple):
    num_tokens: int
    num_documents: int
    max_token_id: int
    tokenizer: str
    fingerprint: str


class Counting(TokenSource):
    """Tokens 0, 1, 2, ... in documents of ten; the URI says how many."""

    def __init__(self, uri: str):
        super().__init__(uri)
        self.manifest = Counted(int(uri), int(uri) // 10, int(uri) - 1, tokenizer="t", fingerprint=uri)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)

    def document_ends(self, start: int, stop: int) -> np.ndarray:
        return np.array([end for end in range(start + 1, stop) if end % 10 == 0], dtype=np.int64)

    def place(self, token: int) -> Place:
        return Place("all", token // 10, f"tens {token // 10}")

    def position(self, token: int) -> str:
        return f"token {token}"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setitem(FORMATS, "counting", Counting)
    source = ShardSource(train="200", held_out="40", format="counting")
    return Prepared(tokenizer_dir="", sources={"numbers": source})


def test_a_new_format_is_trained_on_validated_on_and_explained(counting: Prepared):
    plan, sources = plan_of(counting, mix=None), opened(counting).train
    loader = loader_of(counting, mix=None, batch=8)
    inputs, labels = next(iter(loader))
    first = plan.window(0).index * L
    assert inputs["input"][0].tolist() == list(range(first, first + L))
    edge = 10 - first % 10  # tokens until a document ends
    assert inputs["positions"][0].tolist()[edge : edge + 3] == [0, 1, 2]
    assert labels[0, edge - 1] == -100
    assert step_digest(plan, sources, range(8)) == loader.pop_digest()
    assert f"tens {first // 10}  (shard all" in list(explain_window(plan, sources, 0))[1]
    source = opened(counting).held_out["numbers"]
    held_out = HeldOutWindows(source, seq_len=L, num_windows=9, vocab_size=300, intra_document=True)
    assert held_out.read(range(len(held_out)))[0]["input"].shape == (2, L)  # 40 tokens are two windows


def test_a_format_is_named_in_the_data_section_and_an_unknown_one_refused(counting: Prepared):
    section = {"kind": "shards", "sources": {"numbers": {"train": "200", "held_out": "40", "format": "counting"}}}
    data = TypeAdapter(ShardsData).validate_python(section)
    assert data.sources == counting.sources
    with pytest.raises(ValueError, match="format=parquet: unknown, allowed: datatrove, counting"):
        ShardSource(train="200", format="parquet")
