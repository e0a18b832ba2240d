"""R5: damage to shards of every format, injected at random; none of it is ever trained on."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipelines.index import index
from data_pipelines.shards.manifest import DataError
from data_pipelines.verify import verify
from tests.data_pipelines.conftest import MakeShards, random_documents
from tests.data_pipelines.formats.conftest import WRITERS
from tests.data_pipelines.formats.test_formats import opened

DOCUMENTS = random_documents(6000, seed=3, vocab_size=290)


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def zero_a_page(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes(len(content[at : at + 512])) + content[at + 512 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def grow(content: bytes, rng: random.Random) -> bytes:
    return content + bytes(rng.randrange(1, 100))


def swap_bytes(content: bytes, rng: random.Random) -> bytes:
    even = content[: len(content) // 2 * 2]
    return np.frombuffer(even, "<u2").byteswap().tobytes() + content[len(even) :]


def shift(content: bytes, rng: random.Random) -> bytes:
    """As where a block was written to another place."""
    by = rng.randrange(2, len(content) - 1)
    return content[by:] + content[:by]


DAMAGES: tuple[tuple[Callable[[bytes, random.Random], bytes], int], ...] = (
    (flip, 8),
    (zero_a_page, 3),
    (cut, 3),
    (grow, 2),
    (swap_bytes, 1),
    (shift, 2),
)
"""(what is done to a file, how often)."""


def test_no_damage_is_ever_trained_on(tmp_path: Path, tokenizer_dir: Path, make_shards: MakeShards) -> None:
    """Each file of each format, after its manifest: opening, reading or verifying names a file, or (Parquet's own
    bookkeeping) every token is still the right one and `verify` names the file."""
    rng, counts = random.Random(5), Counter()
    tokens = np.concatenate([np.array(one) for one in DOCUMENTS])
    ends = np.cumsum([len(one) for one in DOCUMENTS])[:-1]
    folders = {"ours": Path(make_shards("ours", DOCUMENTS))}
    for name, write in WRITERS.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        write(folders[name], DOCUMENTS)
        index(str(folders[name]), str(tokenizer_dir))
    for name, folder in folders.items():
        for file in sorted(folder.iterdir()):
            if file.name == "manifest.json" or file.suffix in (".idx", ".names"):
                continue  # .idx is read by `index` only; names are no tokens
            for damage, times in DAMAGES:
                for _ in range(times):
                    sound = file.read_bytes()
                    file.write_bytes(damage(sound, rng))
                    if file.read_bytes() != sound:
                        counts["injected"] += 1
                        counts[found_by(folder, tokens, ends)] += 1
                    file.write_bytes(sound)
            aside = file.rename(tmp_path / "aside")
            counts["injected"] += 1
            counts[found_by(folder, tokens, ends)] += 1
            shutil.move(aside, file)
        assert verify(str(folder)) == 0, name
    print(f"R5: {counts['injected']} injected, {counts['silent']} silent: {dict(counts)}")
    assert counts["injected"] >= 200
    assert not counts["silent"] + counts["unnamed"]


def found_by(folder: Path, tokens: np.ndarray, ends: np.ndarray) -> str:
    try:
        source = opened(folder)
    except DataError as error:
        return "opening" if str(folder) in str(error) else "unnamed"
    try:
        is_right = np.array_equal(source.tokens(0, len(tokens)), tokens)
        is_right = is_right and np.array_equal(source.document_ends(0, len(tokens)), ends)
    except DataError as error:
        return "reading" if str(folder) in str(error) else "unnamed"
    return "verifying" if is_right and verify(str(folder)) == 1 else "silent"
