"""Held-out loss, per source: over all ranks in training, in one process for `train.evaluate`.

B = batch, L = sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torchtitan.components.loss import IGNORE_INDEX

from data_pipelines.batches.loader import Batch
from train.loss.cross_entropy import CrossEntropyZLoss
from train.loss.sums import LossSums


class Windows(Protocol):
    """Windows that are not in memory."""

    def __len__(self) -> int: ...

    def read(self, rows: list[int]) -> Batch:
        """Those of these numbers, 0 .. len - 1."""
        ...


class HeldOut:
    """The held-out windows of each source, shared out over the data-parallel ranks: each reads its own, once.

    Raises DataError where they are not what was written.
    """

    def __init__(
        self, sources: Mapping[str, Windows], *, loss: CrossEntropyZLoss, batch_mesh: DeviceMesh | None, batch: int
    ):
        self._loss = loss
        self._mesh = batch_mesh
        num_ranks, rank = (1, 0) if batch_mesh is None else (batch_mesh.size(), batch_mesh.get_local_rank())
        self._shares = {
            name: list(share(windows, num_ranks=num_ranks, rank=rank, batch=batch)) for name, windows in sources.items()
        }

    def losses(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Source -> mean cross-entropy in nats per token; the same on every rank. Empty where validation is off."""
        if not self._shares:
            return {}
        sums = torch.stack([sum_losses(model, share, self._loss, device) for share in self._shares.values()])
        if self._mesh is not None:
            dist.all_reduce(sums, group=self._mesh.get_group())
        return {name: float(loss / tokens) for name, (loss, tokens) in zip(self._shares, sums, strict=True)}


def share(windows: Windows, *, num_ranks: int, rank: int, batch: int) -> Iterator[Batch]:
    """This rank's part of `windows`, in microbatches of `batch` rows: training's, as a compiler makes new kernels for
    another shape.

    Every rank gets the same number of microbatches, since sharded forward passes are collective. Where windows run out,
    repeats of the last one fill up, without labels, so that they do not count.
    """
    total = len(windows)
    stride = num_ranks * batch
    for start in range(rank * batch, -(-total // stride) * stride, stride):
        rows = range(start, start + batch)
        inputs, labels = windows.read([min(row, total - 1) for row in rows])
        is_real_B = torch.tensor(rows) < total
        yield inputs, torch.where(is_real_B[:, None], labels, IGNORE_INDEX)


@torch.no_grad()
def sum_losses(
    model: nn.Module, microbatches: Iterable[Batch], loss: CrossEntropyZLoss, device: torch.device
) -> Tensor:
    """[sum of the cross-entropy, labelled tokens] over `microbatches`, float64 [2]. Counts no expert's load."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for inputs, labels in microbatches:
        labels = labels.to(device)
        tokens, positions = inputs["input"].to(device), inputs["positions"].to(device)
        figures: LossSums = model(tokens, positions=positions, loss=partial(loss, labels_BL=labels))
        sums += torch.stack([figures.cross_entropy.double(), (labels != IGNORE_INDEX).sum().double()])
    model.train(was_training)
    return sums
