"""Measures the memory of the loss in chunks against the plain one, which holds the logits of all tokens.

    python -m tests.bench_loss [--real-vocabulary 25024]

First, bytes of all tensors in a forward and a backward pass at 8,192 tokens and a vocabulary of 200,192, in bfloat16.
The tensors are fake: the plain loss would need 33 GB. Widths are those of the published models, for the gradient of the
head grows with them and has no chunks; 256 shows the logits almost alone. Then the same passes for real, each in a
process of its own, whose memory the operating system counts: both losses at a smaller vocabulary, and the chunks at the
whole one, which takes some minutes. Then what the size of a chunk buys: bytes of tensors, bytes that go to and from the
gradient of the head (train/loss/chunked.py: 12 V D a chunk), and CPU time at the smaller vocabulary.

Ends with status 1 where the chunks take more than 25 % of the plain loss, or where the bytes of the tensors are not
what the process grew by.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from torch._subclasses import FakeTensorMode

from tests.measured import status_bytes
from tests.train.loss.loss_cases import TOKENS, VOCABULARY, peak_bytes, plain_loss
from train.loss.chunked import linear_loss
from train.loss.config import LossConfig

DEFAULT_CHUNK = LossConfig().tokens_of_chunk(VOCABULARY)
LOSSES = {"plain": plain_loss, "chunks": partial(linear_loss, chunk_tokens=DEFAULT_CHUNK)}
WIDTHS = {256: "", 1024: "Nano", 2048: "Mini", 3072: "Large"}
SIZES_MIB = (64, 128, 256, 1024, 2048, 6400)
BOUND = 0.25
SCRATCH_BYTES = 64 * 2**20
"""What a process may take besides tensors: the buffers of a matrix product, whatever its size."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_loss", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real-vocabulary", type=int, default=25_024, help="default: 25024, 5 GB for the plain loss")
    args = parser.parse_args(arguments)
    share = largest_share()
    print(f"\nwidth 256, for real{'tensors':>31}{'process':>18}")
    runs = [(name, args.real_vocabulary) for name in LOSSES] + [("chunks", VOCABULARY)]
    gaps = [run_for_real(name, vocabulary) for name, vocabulary in runs]
    compare_sizes(args.real_vocabulary)
    return int(share > BOUND or max(gaps) > SCRATCH_BYTES)


def largest_share() -> float:
    """Prints the table of fake tensors; returns the largest share of the plain loss's bytes that the chunks take."""
    print(f"{TOKENS:,} tokens, vocabulary {VOCABULARY:,}, chunks of {DEFAULT_CHUNK:,}, bytes of tensors")
    print(f"{'width':>16}{'plain':>18}{'chunks':>18}")
    return max(compare(width) for width in WIDTHS)


def compare(width: int) -> float:
    """Prints a row; returns the share."""
    with FakeTensorMode():
        plain, chunks = (peak_bytes(loss, width=width) for loss in LOSSES.values())
    print(f"{WIDTHS[width]:>8}{width:>8}{plain:>18,}{chunks:>18,} = {chunks / plain:.1%}, allowed: {BOUND:.0%}")
    return chunks / plain


def compare_sizes(real_vocabulary: int) -> None:
    """Prints a row for each size of a chunk, at the width of Large; only the time is a smaller problem's."""
    print(f"\nwidth {max(WIDTHS)}; CPU time at width 256 and vocabulary {real_vocabulary:,}")
    print(f"{'loss.chunk_mib':>16}{'tokens':>8}{'tensors':>18}{'head gradient':>18}{'CPU time':>12}")
    for mib in SIZES_MIB:
        chunk = LossConfig(chunk_mib=mib).tokens_of_chunk(VOCABULARY)
        loss = partial(linear_loss, chunk_tokens=chunk)
        with FakeTensorMode():
            tensors = peak_bytes(loss, width=max(WIDTHS))
        moved = 12 * VOCABULARY * max(WIDTHS) * -(-TOKENS // chunk)
        started = time.process_time()
        peak_bytes(loss, width=256, vocabulary=real_vocabulary)
        seconds = time.process_time() - started
        print(f"{mib:>16,}{chunk:>8,}{tensors:>18,}{moved:>18,}{seconds:>10.1f} s", flush=True)


def run_for_real(name: str, vocabulary: int) -> int:
    """Prints a row; returns by how many bytes the process's growth and the tensors differ."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        tensors, grown = process.submit(measure, name, vocabulary).result()
    print(f"{name:>8}, vocabulary {vocabulary:>11,}{tensors:>18,}{grown:>18,}")
    return abs(grown - tensors)


def measure(name: str, vocabulary: int) -> tuple[int, int]:
    """(peak bytes of the tensors, growth of this process to its peak)."""
    peak_bytes(LOSSES[name], width=256, tokens=64, vocabulary=512)  # threads and libraries are there from now on
    before = status_bytes("VmRSS")
    tensors = peak_bytes(LOSSES[name], width=256, vocabulary=vocabulary)
    return tensors, status_bytes("VmHWM") - before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
