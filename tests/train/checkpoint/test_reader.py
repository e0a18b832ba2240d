"""train/checkpoint/reader.py: any part of a tensor from whatever shards it is stored in, and nothing else read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties, TensorStorageMetadata

from data_pipelines.base.errors import ConfigError
from train.checkpoint.reader import CheckpointReader
from train.checkpoint.stream import write_checkpoint

HEAD_VD = torch.arange(20.0).reshape(5, 4)
HEAD_SHARDS = {  # place of the first element -> shard
    (0, 0): HEAD_VD[:2],
    (2, 0): HEAD_VD[2:, :2],
    (2, 2): HEAD_VD[2:, 2:],
    (2, 4): HEAD_VD[2:, 4:],  # empty, as uneven sharding may leave the last
}
BIAS_SHARDS = {(0,): torch.tensor([0.5, -0.5])}
STORED = {
    "lm_head.weight": (HEAD_VD.shape, HEAD_SHARDS),
    "layers.1.moe.expert_bias_E": (torch.Size([2]), BIAS_SHARDS),
    "layers.1.moe.bias_momentum_E": (torch.Size([2]), BIAS_SHARDS),
    "optimizer.state.lm_head.weight.exp_avg": (HEAD_VD.shape, HEAD_SHARDS),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {
        name: TensorStorageMetadata(
            TensorProperties(dtype=torch.float32),
            shape,
            [ChunkStorageMetadata(torch.Size(place), shard.shape) for place, shard in shards.items()],
        )
        for name, (shape, shards) in STORED.items()
    }
    write_checkpoint(
        tmp_path / "step-1", tensors, lambda index: STORED[index.fqn][1][tuple(index.offset or ())], desc="checkpoint"
    )
    return tmp_path / "step-1"


def test_of_all_that_a_checkpoint_holds_the_model_is_shown(folder: Path) -> None:
    assert CheckpointReader(folder).shapes == {"lm_head.weight": (5, 4), "layers.1.moe.expert_bias_E": (2,)}


@pytest.mark.parametrize(
    "rows", [None, slice(None), slice(0, 2), slice(1, 3), slice(3, 4), slice(3, None), slice(4, 99), slice(2, 2)]
)
def test_rows_come_together_from_every_shard(folder: Path, rows: slice | None) -> None:
    expected = HEAD_VD if rows is None else HEAD_VD[rows]
    assert torch.equal(CheckpointReader(folder).read("lm_head.weight", rows), expected)


def test_only_the_rows_that_are_asked_for_are_read(folder: Path) -> None:
    """The file is cut where row 0 ends: row 0 can still be read, row 1 of the same shard cannot."""
    (file,) = folder.glob("*.distcp")
    reader = CheckpointReader(folder)
    reader.read("lm_head.weight")
    content = file.read_bytes()
    file.write_bytes(content[: content.index(HEAD_VD[:2].numpy().tobytes()) + 4 * 4])
    assert torch.equal(reader.read("lm_head.weight", slice(0, 1)), HEAD_VD[:1])
    with pytest.raises(OSError, match=r"distcp: ends inside of lm_head.weight; the checkpoint is damaged"):
        reader.read("lm_head.weight", slice(1, 2))


def test_a_file_that_is_gone_is_named(folder: Path) -> None:
    (file,) = folder.glob("*.distcp")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=str(file)):
        CheckpointReader(folder).read("lm_head.weight")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is no checkpoint: it has no .metadata"):
        CheckpointReader(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04N.", None], ids=["empty", "garbage", "a None", "cut"])
def test_a_damaged_directory_of_a_checkpoint_is_named(folder: Path, content: bytes | None) -> None:
    file = folder / ".metadata"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(
        ConfigError, match=r"step-1/\.metadata: cannot be read .*; the checkpoint is damaged, take another"
    ):
        CheckpointReader(folder)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000], ids=["empty", "garbage"])
def test_a_damaged_file_of_weights_is_named_with_a_reason(folder: Path, content: bytes) -> None:
    (file,) = folder.glob("*.distcp")
    file.write_bytes(content)
    with pytest.raises(OSError, match=rf"{file}: \w.*; the checkpoint is damaged, take another step"):
        CheckpointReader(folder).read("lm_head.weight")
