"""train/checkpoint/storage.py: a start that cannot read its checkpoint names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from train.checkpoint.manager import _reason
from train.checkpoint.storage import storage_of

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # in this process: as intended

STATES = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(4)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save({**STATES, "step": 7}, checkpoint_id=tmp_path / "step-7", no_dist=True)
    return tmp_path / "step-7"


def read(folder: Path) -> dict[str, Tensor | int]:
    states: dict[str, Tensor | int] = {name: torch.zeros_like(tensor) for name, tensor in STATES.items()} | {"step": 0}
    load(states, storage_reader=storage_of(folder, {}), no_dist=True)
    return states


def test_a_whole_checkpoint_is_read_as_dcp_reads_it(folder: Path) -> None:
    states = read(folder)
    assert states["step"] == 7
    assert all(torch.equal(torch.as_tensor(states[name]), tensor) for name, tensor in STATES.items())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "garbage": lambda content: b"garbage" * 1000,
    "cut": lambda content: content[: len(content) // 3],
}


@pytest.mark.parametrize("pattern", ["*.distcp", ".metadata"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(damage: str, pattern: str, folder: Path) -> None:
    (file,) = folder.glob(pattern)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises((CheckpointException, OSError)) as refusal:
        read(folder)
    assert f"{file}: cannot be read" in _reason(refusal.value)


def test_a_file_that_is_gone_is_named(folder: Path) -> None:
    (file,) = folder.glob("*.distcp")
    file.unlink()
    with pytest.raises(CheckpointException) as refusal:
        read(folder)
    assert str(file) in _reason(refusal.value)
