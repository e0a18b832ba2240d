"""Writes the golden files beside it with Megatron-LM's own code. In an environment with the extra `peers`:

    python -m tests.data.formats.write

megatron_uint16.bin/.idx and megatron_int32.bin/.idx: the documents of random_documents(1000, seed=7, vocab_size=290),
every third one in two sequences. What they must be read as is worked out anew by the test.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from tests.data_pipelines.conftest import random_documents

FOLDER = Path(__file__).parent

if __name__ == "__main__":
    megatron = import_module("megatron.core.datasets.indexed_dataset")
    for dtype in (np.uint16, np.int32):
        prefix = FOLDER / f"megatron_{np.dtype(dtype).name}"
        builder = import_module("megatron.core.datasets.indexed_dataset").IndexedDatasetBuilder(
            f"{prefix}.bin", dtype=dtype
        )
        for number, document in enumerate(random_documents(1000, seed=7, vocab_size=290)):
            parts = [document[:3], document[3:]] if number % 3 == 0 else [document]
            builder.add_document(torch.tensor(document), [len(part) for part in parts])
        builder.finalize(f"{prefix}.idx")
