"""megatron-core's GPTDataset under torch's DataLoader, its indices built before; it checks no hashes and, as its users
mostly run it, masks no documents."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig  # type: ignore[import-not-found]
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder  # type: ignore[import-not-found]
from megatron.core.datasets.utils import Split  # type: ignore[import-not-found]
from torch.utils.data import DataLoader

from tests.bench_loader.corpus import BATCH, EOS, SEQ_LEN, VOCAB_SIZE, answer, documents, tokens_per_second


def write(folder: Path, num_tokens: int) -> None:
    folder.mkdir(parents=True)
    builder = IndexedDatasetBuilder(str(folder / "web.bin"), dtype=np.uint16)
    for ids in documents(num_tokens):
        builder.add_document(torch.from_numpy(ids.astype(np.int64)), [len(ids)])
    builder.finalize(str(folder / "web.idx"))


def measure(folder: Path, workers: int, verb: str) -> float:
    masks = verb == "masked"
    prefix = str(folder / "web")
    tokens = IndexedDataset(prefix, multimodal=False, mmap=True)
    config = GPTDatasetConfig(
        random_seed=0,
        sequence_length=SEQ_LEN,
        blend=([prefix], None),
        split="1,0,0",
        reset_position_ids=masks,
        reset_attention_mask=False,
        eod_mask_loss=masks,
        create_attention_mask=False,
        tokenizer=SimpleNamespace(eod=EOS, pad=0, vocab_size=VOCAB_SIZE, unique_identifiers={"name": "none"}),  # type: ignore[arg-type]
        path_to_cache=str(folder / "cache"),
        mid_level_dataset_surplus=0.005,
    )
    samples = (int(tokens.sequence_lengths.sum()) - 1) // SEQ_LEN
    documents = np.arange(len(tokens.document_indices) - 1, dtype=np.int32)
    dataset = GPTDataset(tokens, prefix, documents, samples, Split.train, config)
    return tokens_per_second(DataLoader(dataset, BATCH, num_workers=workers), lambda batch: batch["labels"])


if __name__ == "__main__":
    answer(write, measure)
