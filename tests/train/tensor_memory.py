"""Bytes of the tensors that exist, operation by operation; of fake tensors too, which take none."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Inside of it, `peak_bytes` is the most that the tensors made inside of it took at a time.

    It looks after every operation, when both operands and results are there. A view costs nothing; a storage counts
    until nobody holds it. What an operation allocates and frees within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()
        self._storages = {storage: size for storage, size in self._storages.items() if not storage.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(self._storages.values()))
        return results
