"""data_pipelines/batches/held_out.py: always the same windows, read by those who ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_pipelines.batches.held_out import HeldOutWindows
from data_pipelines.shards.datatrove import Source
from data_pipelines.shards.manifest import DataError
from tests.counted import CountedStore
from tests.data_pipelines.conftest import MakeShards, random_documents

L = 16


def windows_of(uri: str, num_windows: int, *, seq_len: int = L, intra_document: bool = True) -> HeldOutWindows:
    return HeldOutWindows(
        Source(uri), seq_len=seq_len, num_windows=num_windows, vocab_size=300, intra_document=intra_document
    )


def test_held_out_windows_are_spread_evenly_and_always_the_same(make_shards: MakeShards) -> None:
    uri = make_shards("h", random_documents(170, seed=4))
    five, all_ = windows_of(uri, 5), windows_of(uri, 100)
    assert (len(five), len(all_)) == (5, 10)  # 170 tokens are 10 windows of 16
    inputs, labels = five.read(range(5))
    assert inputs["input"].shape == inputs["positions"].shape == labels.shape == (5, L)
    everything, _ = all_.read(range(10))
    assert torch.equal(inputs["input"], everything["input"][::2])
    assert torch.equal(windows_of(uri, 5).read([3, 1])[0]["input"], inputs["input"][[3, 1]])


def test_positions_and_labels_stop_at_documents_where_they_do_in_training(make_shards: MakeShards) -> None:
    uri = make_shards("h", [[5] * 9 + [1], [6] * 30])
    inputs, labels = windows_of(uri, 1).read([0])
    assert inputs["positions"].tolist() == [[*range(10), *range(6)]]
    assert labels.tolist() == [[5] * 8 + [1, -100] + [6] * 6]
    inputs, labels = windows_of(uri, 1, intra_document=False).read([0])
    assert inputs["positions"].tolist() == [[*range(16)]]
    assert -100 not in labels


def test_nothing_is_read_but_the_rows_that_are_asked_for(make_shards: MakeShards) -> None:
    windows = windows_of(f"counted://{make_shards('h', [[5] * 1000], block_bytes=32)}", 30)
    CountedStore.reads.clear()
    windows.read([7])
    (tokens,) = [count for path, count in CountedStore.reads if path.endswith(".ds")]
    assert tokens <= 96  # 17 tokens of 2 bytes, in blocks of 32


def test_a_held_out_part_shorter_than_a_window_is_named(make_shards: MakeShards) -> None:
    uri = make_shards("h", random_documents(170, seed=4))
    with pytest.raises(DataError, match=r"h has 170 tokens, less than one window of seq_len=256; raise data\.held_out"):
        windows_of(uri, 4, seq_len=256)


def test_damage_is_found_by_whoever_reads_it(make_shards: MakeShards) -> None:
    uri = make_shards("h", random_documents(170, seed=4))
    path = Path(uri, "00000.ds")
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    windows = windows_of(uri, 10)
    windows.read(range(8))
    with pytest.raises(DataError, match=r"00000\.ds: bytes 320 to 340 differ"):
        windows.read([9])
