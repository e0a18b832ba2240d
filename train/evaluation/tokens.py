"""Loss of a model on token ids out of a file."""

from __future__ import annotations

import math
from pathlib import Path
from tokenize import TokenError

import numpy as np

DAMAGED = (ValueError, TypeError, ArithmeticError, SyntaxError, TokenError, RecursionError, MemoryError)
"""What numpy raises for a header, which is a Python expression."""


def read_sequences(path: Path, *, seq_len: int, vocab_size: int) -> list[np.ndarray]:
    """Sequences of int64 ids, each of at least two. Raises ValueError or OSError where there are none."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no file; name one that numpy.save wrote")  # a pipe would be waited for
    try:
        _check_size(path)
        with path.open("rb") as file:  # np.load would take archives too, and a text file for a pickle
            ids = np.lib.format.read_array(file)
    except DAMAGED as error:
        raise ValueError(f"{path}: not an array as numpy.save writes it ({error})") from error
    if ids.ndim not in (1, 2) or ids.dtype.kind not in "iu" or not ids.size or ids.shape[-1] < 2:
        raise ValueError(
            f"{path}: expected whole numbers, [tokens >= 2] or [rows, tokens >= 2], got {ids.dtype} {ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(
            f"{path}: ids {ids.min()} to {ids.max()}, expected 0 to model.vocab_size - 1 = {vocab_size - 1}"
        )
    ids = ids.astype(np.int64)
    if ids.ndim == 2:
        return list(ids)
    return [ids[start : start + seq_len + 1] for start in range(0, len(ids) - 1, seq_len)]


def _check_size(path: Path) -> None:
    """Raises ValueError for a header that claims more than the file holds: numpy would take the memory first."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"format {version}, expected 1.0 or 2.0")
        shape, _, dtype = read_header[version](file)
        claimed, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
    if claimed > there and not dtype.hasobject:
        raise ValueError(
            f"its header says {dtype} {shape}, {claimed:,} bytes, and {there:,} follow; the file is damaged"
        )


def mean_loss(model, sequences: list[np.ndarray], section) -> tuple[float, int]:  # type: ignore[no-untyped-def]
    """(mean cross-entropy in nats, number of targets), each sequence as one document."""
    import torch

    from train.evaluation.held_out import sum_losses
    from train.loss.cross_entropy import CrossEntropyZLoss

    def microbatch(ids: np.ndarray):  # type: ignore[no-untyped-def]
        row = torch.from_numpy(ids)[None]
        return {"input": row[:, :-1], "positions": torch.arange(len(ids) - 1)[None]}, row[:, 1:].contiguous()

    loss = CrossEntropyZLoss.Config(section=section).build()
    nats, targets = sum_losses(model, map(microbatch, sequences), loss, torch.device("cpu")).tolist()
    return nats / targets, int(targets)
