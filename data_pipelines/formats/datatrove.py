"""datatrove's shards: NAME.ds (raw ids) and NAME.ds.index (uint64 ends of documents). What DocumentTokenizer writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.formats.foreign import Foreign, Hints, checked_ends, whole_tokens
from data_pipelines.shards.manifest import ENDS, TOKENS, TokenType, join
from data_pipelines.shards.writer import token_dtype


def find_datatrove(fs: Any, folder: str, names: list[str], hints: Hints) -> list[Foreign]:
    found = []
    for file in sorted(name for name in names if name.endswith(TOKENS)):
        path, name = join(folder, file), file.removesuffix(TOKENS)
        index = join(folder, name + ENDS)
        dtype = _dtype(fs, path, hints)
        num_tokens = whole_tokens(fs.size(path), np.dtype(dtype).itemsize, path)
        if name + ENDS not in names:
            raise ValueError(f"{index} is missing: without it nobody knows where documents end")

        def ends(index: str = index, num_tokens: int = num_tokens) -> Iterator[np.ndarray]:
            content = fs.cat_file(index)
            whole_tokens(len(content), 8, index)
            yield checked_ends(np.frombuffer(content, "<u8").astype(np.int64), num_tokens, index)

        found.append(Foreign(name=name, tokens_in=file, dtype=dtype, num_tokens=num_tokens, ends=ends))
    return found


def _dtype(fs: Any, path: str, hints: Hints) -> TokenType:
    """As NAME.ds.metadata says, which is JSON of some versions and lines of others; else as the vocabulary needs."""
    sizes: dict[int, TokenType] = {2: "uint16", 4: "uint32"}
    if hints.dtype is None and fs.exists(path + ".metadata"):
        text = fs.cat_file(path + ".metadata").decode(errors="replace")
        try:
            size = int(json.loads(text)["token_size"])
        except (ValueError, KeyError, TypeError):
            size = int((text.splitlines()[0].rpartition("|")[2] or "0").strip() or 0) if "|" in text else 0
        if size:
            if size not in sizes:
                raise ValueError(f"{path}.metadata: ids of {size} bytes; 2 and 4 are read")
            return sizes[size]
    return hints.dtype or token_dtype(hints.vocab_size)
