"""Bytes of the tensors that exist, operation by operation; of fake and meta tensors too, which take none."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Inside of it, `live_bytes` is what the tensors made inside of it take, and `peak_bytes` the most that they took.

    It looks after every operation, when both operands and results are there. A view costs nothing, of tensors from
    outside neither; a storage counts until nobody holds it. What an operation allocates and frees within itself is not
    seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        given = {StorageWeakRef(x.untyped_storage()) for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                if (reference := StorageWeakRef(storage)) in self._storages or reference not in given:
                    self._storages[reference] = storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return results

    @property
    def live_bytes(self) -> int:
        self._storages = {storage: size for storage, size in self._storages.items() if not storage.expired()}
        return sum(self._storages.values())
