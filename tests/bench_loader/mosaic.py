"""mosaicml-streaming's StreamingDataset under torch's DataLoader: windows that were cut before, so that none is put
together here, shuffled, local. It checks hashes only of what it downloads."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.utils.data import DataLoader

from tests.bench_loader.corpus import BATCH, SEQ_LEN, answer, documents, tokens_per_second


def stand_in(name: str, **names: object) -> None:
    """streaming's __init__ imports its data sets of pictures, and with them torchvision, which none of this uses."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(names, __path__=[])
    sys.modules.setdefault(name, module)


stand_in("torchvision")
stand_in("torchvision.datasets", VisionDataset=object)
stand_in("torchvision.transforms")
stand_in("torchvision.transforms.functional", to_tensor=None)
from streaming import MDSWriter, StreamingDataset  # noqa: E402  # type: ignore[import-not-found]


def write(folder: Path, num_tokens: int) -> None:
    tokens = np.concatenate(list(documents(num_tokens)))
    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{SEQ_LEN + 1}"}, hashes=["xxh64"]) as writer:
        for start in range(0, len(tokens) - SEQ_LEN, SEQ_LEN):
            writer.write({"tokens": tokens[start : start + SEQ_LEN + 1]})


def collate(rows: list[dict[str, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.from_numpy(np.stack([row["tokens"] for row in rows]).astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def measure(folder: Path, workers: int, verb: str) -> float:
    dataset = StreamingDataset(local=str(folder), batch_size=BATCH, shuffle=True, validate_hash="xxh64")
    loader = DataLoader(dataset, BATCH, num_workers=workers, collate_fn=collate)
    return tokens_per_second(loader, lambda batch: batch[1])


if __name__ == "__main__":
    answer(write, measure)
