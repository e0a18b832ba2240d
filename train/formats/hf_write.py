"""A checkpoint's tensors as the files of a Hugging Face folder, some rows at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.base.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from train.formats.safetensors_file import Entry
    from train.formats.tensors import Reader


BLOCK_BYTES = 16 * 2**20
"""Rows of a matrix that are written at a time. An expert is one piece, 38 MB of float32 in Trinity Large."""


INDEX = "model.safetensors.index.json"
WRITER = "trinity-pretrain"
"""In the metadata of an index, where consumers read the total size only: it tells our exports from others' models.
Beside it, `files` says what else the export wrote."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
)
"""What is copied of the tokenizer's folder: it may be that of a published model, weights and all."""


def write_weights(
    reader: Reader, shapes: Mapping[str, Sequence[int]], folder: Path, *, dtype: str, shard_bytes: int
) -> dict[str, Any]:
    """Writes the files of weights, tensors in the order of `shapes`; returns their index."""
    from train.formats.safetensors_file import index_of, plan_shards, write_shard

    shards = plan_shards(_entries(shapes, dtype=dtype), shard_bytes=shard_bytes)
    index = index_of(shards)
    with progress_bar(desc="export", total=index["metadata"]["total_size"], unit="B", unit_scale=True) as bar:
        for file, shard in shards.items():
            write_shard(folder / file, shard, read=partial(_read_parts, reader), progress=bar.update)
    return index


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """The last file of an export: it names the others, so that what is added or changed later can be told from them."""
    mark = {"writer": WRITER, "files": {file.name: _fingerprint(file) for file in sorted(folder.iterdir())}}
    (folder / INDEX).write_text(json_text(index | {"metadata": index["metadata"] | mark}), encoding="utf-8")


def is_export(folder: Path) -> bool:
    """Whether `write_index` has marked a folder as an export of ours."""
    return _written_files(folder) is not None


def strangers(folder: Path) -> list[str]:
    """Names, in an export of ours, of what was added or changed since."""
    written = _written_files(folder) or {}
    return [
        entry.name + "/" * entry.is_dir()
        for entry in sorted(folder.iterdir())
        if entry.name != INDEX and (entry.name not in written or written[entry.name] != _fingerprint(entry))
    ]


def _written_files(folder: Path) -> dict[str, str] | None:
    """File -> fingerprint, of an export of ours, the index not among them."""
    try:
        metadata = json.loads((folder / INDEX).read_text(encoding="utf-8"))["metadata"]
        return dict(metadata["files"]) if metadata["writer"] == WRITER else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(file: Path) -> str:
    """Its sha256; of weights the size, since they may take minutes to read."""
    if file.suffix == ".safetensors":
        return f"{file.stat().st_size} bytes"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _entries(shapes: Mapping[str, Sequence[int]], *, dtype: str) -> Iterator[Entry]:
    """Every published tensor of a model of these shapes, in the order of the model."""
    import torch

    from train.formats.hf_names import KEEP_FLOAT32, pieces
    from train.formats.safetensors_file import Entry

    for name, shape in shapes.items():
        for piece in pieces(name, shape):
            kept = torch.float32 if piece.name.endswith(KEEP_FLOAT32) else getattr(torch, dtype)
            yield Entry(piece.name, piece.shape, kept, source=(name, piece.expert_id))


def _read_parts(reader: Reader, entry: Entry) -> Iterator[Tensor]:
    """The numbers of one published tensor, in order, at most BLOCK_BYTES of rows (or one expert) at a time."""
    name, expert_id = entry.source
    if expert_id is not None:
        yield reader.read(name, slice(expert_id, expert_id + 1))
        return
    num_rows = max(1, BLOCK_BYTES * entry.shape[0] // entry.nbytes)
    for start in range(0, entry.shape[0], num_rows):
        yield reader.read(name, slice(start, start + num_rows))


def token_ids_of(tokenizer_dir: Path) -> dict[str, int | None]:
    """Ids of the special tokens that the tokenizer's own config names."""
    from data_pipelines.tokenizer.file import open_tokenizer

    vocabulary = open_tokenizer(tokenizer_dir).tokenizer
    config = tokenizer_dir / "tokenizer_config.json"
    names: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return {f"{kind}_token_id": _token_id(vocabulary, names.get(f"{kind}_token")) for kind in ("bos", "eos", "pad")}


def _token_id(vocabulary: Any, token: Any) -> int | None:
    """Older tokenizer configs write a token as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else vocabulary.token_to_id(text)


def json_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
