"""What a format is written from: tensors by our names, read in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Reader(Protocol):
    """A checkpoint, tensor by tensor, by our names."""

    @property
    def shapes(self) -> Mapping[str, torch.Size]: ...

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """float32, whole or some rows of dimension 0."""
        ...
