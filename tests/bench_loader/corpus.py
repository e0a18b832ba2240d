"""The same documents for all: random ids of 16 bits, lengths like those of the web (median 665 tokens, a long tail)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEQ_LEN = 8192
BATCH = 4
EOS = 1
VOCAB_SIZE = 60_000


def documents(num_tokens: int) -> Iterator[np.ndarray]:
    """uint16 each, ended by EOS."""
    rng, made = np.random.default_rng(0), 0
    while made < num_tokens:
        size = int(np.clip(rng.lognormal(6.5, 1.0), 8, 60_000))
        ids = rng.integers(4, VOCAB_SIZE, size, dtype=np.uint16)
        ids[-1] = EOS
        made += size
        yield ids


def answer(write: Callable[[Path, int], object], measure: Callable[[Path, int, str], float]) -> None:
    """What __main__ asks a contender for: VERB FOLDER NUMBER CORES. `write` gets the size of the corpus; every other
    verb is one of `measure`, which gets the number of workers, and is answered in tokens a second."""
    _, verb, where, number, cores = sys.argv
    if verb == "write":
        write(Path(where), int(number))
    else:
        use_cores(int(cores))
        warm(Path(where))
        print(measure(Path(where), int(number), verb))


def tokens_per_second(batches: Iterable[Any], labels_of: Callable[[Any], Any]) -> float:
    """From the second batch on: workers have started by then."""
    served, begun = 0, 0.0
    for batch in batches:
        if not begun:
            begun = time.perf_counter()
            continue
        served += labels_of(batch).numel()
    return served / (time.perf_counter() - begun)


def warm(folder: Path) -> None:
    """Into the page cache: no disk is measured."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def use_cores(count: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
