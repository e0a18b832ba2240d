"""A window of tokens -> what a model trains on. Pure.

Letters: B windows, L target tokens.

    tokens     a b E | c d e E | f g        L + 1 tokens, three documents, E ends one
    input      a b E   c d e E   f
    positions  0 1 2   0 1 2 3   0          restart where a document starts
    labels     b E .   d e E .   g          no label asks for the first token of another document
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xxhash

IGNORE = -100  # torch.nn.functional.cross_entropy's default ignore_index; torchtitan's IGNORE_INDEX


Row = tuple[np.ndarray, np.ndarray, np.ndarray] | np.ndarray
"""Three times int64 [L]"""


def split_window(
    tokens: np.ndarray, edges: Sequence[int] | np.ndarray, out: Row | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens int64 [L + 1] -> (input, positions, labels), each int64 [L].

    edges: every e with 0 < e <= L where tokens[e] begins a document, ascending. Without edges the window is one
    document, which is also how a window that begins in the middle of one is treated: it starts at position 0.
    out: where the three are written; None: into new arrays.
    """
    size = len(tokens) - 1
    inputs, positions, labels = out if out is not None else np.empty((3, size), np.int64)
    edges = np.asarray(edges, dtype=np.int64)
    inputs[:], labels[:] = tokens[:-1], tokens[1:]
    labels[edges - 1] = IGNORE
    positions[:] = _numbers(size)
    starts = edges[edges < size]
    if len(starts):
        positions[starts[0] :] -= np.repeat(starts, np.diff(starts, append=size))
    return inputs, positions, labels


@lru_cache(4)
def _numbers(size: int) -> np.ndarray:
    return np.arange(size)


def window_hash(g: int, tokens: np.ndarray) -> int:
    """xxh3-64 over the window's global number (u64) and its ids (u32), whatever the width they are stored in.

    Sums of these mod 2^64 do not depend on order: they name a global batch, however it is divided over ranks.
    """
    return xxhash.xxh3_64_intdigest(np.uint64(g).tobytes() + tokens.astype("<u4").tobytes())
