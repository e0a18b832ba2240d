"""What an owner keeps of its matrices from step to step, in the form in which checkpoints take it.

DCP saves any tensor that can name its pieces and their place in the whole. So a checkpoint has the state of a parameter
under its name and in its shape, whoever owned what, and another mesh reads out of it what its own ranks own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

aten = torch.ops.aten
COPIES = (aten.clone.default, aten.detach.default, aten.empty_like.default)


class OwnedMatrices(Tensor):
    """Those matrices of a tensor [rows, columns] or [experts, rows, columns] that lie on this rank.

    Has the shape of the whole tensor, and can be copied and checkpointed. To compute, take `matrices`.
    """

    matrices: dict[int, Tensor]
    """Index of a matrix, counted from `first` on -> [rows, columns]. A 2-D tensor has index 0 only."""
    first: int
    """Number in the whole tensor of the matrix with index 0."""

    @staticmethod
    def __new__(cls, like: Tensor, matrices: Mapping[int, Tensor], *, first: int) -> OwnedMatrices:
        """like: any tensor with the shape of the whole; without matrices, also with its data type and device."""
        one = next(iter(matrices.values()), like)
        return Tensor._make_wrapper_subclass(cls, like.shape, dtype=one.dtype, device=one.device)

    def __init__(self, like: Tensor, matrices: Mapping[int, Tensor], *, first: int):
        self.matrices, self.first = dict(matrices), first

    @classmethod
    def zeros(cls, like: Tensor, indices: Iterable[int], *, first: int) -> OwnedMatrices:
        """Zeros for the matrices with these indices."""
        zero_MN = partial(torch.zeros, like.shape[-2:], dtype=like.dtype, device=like.device)
        return cls(like, {index: zero_MN() for index in indices}, first=first)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's own do

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What copies a tensor copies each matrix; no operation that computes is defined."""
        whole, *_ = args
        if func is aten.is_pinned.default:
            return False
        if func not in COPIES:
            return NotImplemented
        copies = {index: func(matrix, **(kwargs or {})) for index, matrix in whole.matrices.items()}
        return cls(whole, copies, first=whole.first)

    def __create_write_items__(self, fqn: str, _: Any) -> list[WriteItem]:
        properties = TensorProperties(self.dtype)
        return [
            WriteItem(
                MetadataIndex(fqn, chunk.offsets, place),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, properties, self.size()),
            )
            for place, chunk in enumerate(self.__create_chunk_list__())
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(self._offset(index), self._sizes()) for index in self.matrices]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        assert index.offset is not None
        number = 0 if self.ndim == 2 else index.offset[0]
        return self.matrices[number - self.first].view(self._sizes())

    def _offset(self, index: int) -> torch.Size:
        return torch.Size([self.first + index, 0, 0][-self.ndim :])

    def _sizes(self) -> torch.Size:
        return torch.Size([1, *self.shape[-2:]][-self.ndim :])
