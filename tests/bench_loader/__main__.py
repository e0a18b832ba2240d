"""How many tokens a second does our loader serve, beside megatron-core's GPTDataset and mosaicml-streaming?

    python -m tests.bench_loader --megatron ENV/bin/python --streaming OTHER/bin/python

The same documents in windows of 8,192 tokens, batches of 4, files in the page cache, one core and two. Each library
runs in processes of the interpreter that has it (default: this one), with each number of workers that may be best, in
turn with the others; the best of all its runs counts. Ends with 1 where ours is less than twice as fast as one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from data_pipelines.base.command import aligned, command_parser, run_command

ROOT = Path(__file__).parents[2]
NUM_TOKENS = 32_000_000
ROUNDS = 2
BOUND = 2.0


class Contender(NamedTuple):
    name: str
    module: str
    python: str
    verb: str = "measure"


def call(contender: Contender, verb: str, folder: Path, number: int, cores: int) -> str | None:
    """What it prints; None where its library is missing, or does not run, which is said."""
    command = [
        contender.python,
        "-m",
        f"tests.bench_loader.{contender.module}",
        verb,
        str(folder),
        str(number),
        str(cores),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{contender.name}: not measured ({done.stderr.strip().splitlines()[-1]})", file=sys.stderr)
        return None
    return done.stdout.strip()


def best(contender: Contender, folder: Path, cores: int) -> float:
    """Tokens a second with the number of workers that suits it best; 0 where it does not run."""
    answers = [call(contender, contender.verb, folder, workers, cores) for workers in (0, 1, 2) if workers <= cores]
    return max(float(answer.splitlines()[-1]) if answer else 0.0 for answer in answers)


def main(arguments: list[str]) -> int:
    parser = command_parser("python -m tests.bench_loader", description=__doc__)
    parser.add_argument(
        "--megatron", default=sys.executable, metavar="PYTHON", help="an interpreter with megatron-core"
    )
    parser.add_argument("--streaming", default=sys.executable, metavar="PYTHON", help="and with mosaicml-streaming")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, metavar="N", help="size of the corpus")
    args = parser.parse_args(arguments)
    ours = Contender("ours, hashes checked, documents masked", "ours", sys.executable)
    megatron = Contender("megatron-core GPTDataset", "megatron", args.megatron)
    masked = Contender("the same, documents masked", "megatron", args.megatron, "masked")
    streaming = Contender("mosaicml-streaming, cut before", "mosaic", args.streaming)
    with tempfile.TemporaryDirectory() as place:
        there = [
            contender
            for contender in (ours, megatron, streaming)
            if call(contender, "write", Path(place, contender.module), args.tokens, 1) is not None
        ]
        there += [masked] if megatron in there else []
        speeds = {(contender, cores): 0.0 for contender in there for cores in (1, 2)}
        for _ in range(ROUNDS):
            for contender, cores in speeds:
                found = best(contender, Path(place, contender.module), cores)
                speeds[contender, cores] = max(speeds[contender, cores], found)
    lines = [("million tokens a second", "1 core", "2 cores", "ours is faster by")]
    for contender in there:
        cells = [f"{speeds[contender, cores] / 1e6:.1f}" for cores in (1, 2)]
        factors = [speeds[ours, cores] / max(speeds[contender, cores], 1.0) for cores in (1, 2)]
        faster = "" if contender == ours else f"{factors[0]:.1f} x, {factors[1]:.1f} x"
        lines.append((contender.name, cells[0], cells[1], faster))
    print(*aligned(lines, words={0}), sep="\n")
    others = [(contender, cores) for contender, cores in speeds if contender != ours]
    return int(any(speeds[ours, cores] < BOUND * speeds[contender, cores] for contender, cores in others))


if __name__ == "__main__":
    run_command(main)
