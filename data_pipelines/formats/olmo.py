"""OLMo's token files: NAME.npy, which is raw ids without a header, documents ended by the end-of-text token.

Source: olmo_core/data/numpy_dataset.py. They do not say which type their ids have; the vocabulary does, or --dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.formats.foreign import Foreign, Hints, whole_tokens
from data_pipelines.shards.manifest import join
from data_pipelines.shards.writer import token_dtype

_PIECE_TOKENS = 2**22


def find_olmo(fs: Any, folder: str, names: list[str], hints: Hints) -> list[Foreign]:
    found = []
    dtype = hints.dtype or token_dtype(hints.vocab_size)
    itemsize = np.dtype(dtype).itemsize
    for file in sorted(name for name in names if name.endswith(".npy")):
        path = join(folder, file)
        if fs.cat_file(path, start=0, end=6) == b"\x93NUMPY":
            raise ValueError(
                f"{path}: byte 0: an array that numpy.save wrote; OLMo's files have no header: write it anew"
            )
        num_tokens = whole_tokens(fs.size(path), itemsize, path)

        def ends(path: str = path, num_tokens: int = num_tokens) -> Iterator[np.ndarray]:
            last = 0
            for start in range(0, num_tokens, _PIECE_TOKENS):
                stop = min(start + _PIECE_TOKENS, num_tokens)
                content = fs.cat_file(path, start=start * itemsize, end=stop * itemsize)
                found = np.flatnonzero(np.frombuffer(content, np.dtype(dtype).newbyteorder("<")) == hints.eos_id)
                found = found + start + 1
                if len(found):
                    last = int(found[-1])
                    yield found
            if last < num_tokens:  # the last document has no end: it was cut, or continues in the next file
                yield np.array([num_tokens])

        name = file.removesuffix(".npy")
        found.append(Foreign(name=name, tokens_in=file, dtype=dtype, num_tokens=num_tokens, ends=ends))
    return found
