"""Loss of a run's checkpoint on tokens of your own.

    python -c "import numpy; numpy.save('tokens.npy', [[1, 2, 3, 4], [5, 6, 7, 8]])"
    python -m train.evaluate runs/smoke --tokens tokens.npy --step 40

The file holds token ids. Two dimensions: each row is a sequence, its first token is only read. One dimension: a stream,
cut into windows of training.seq_len targets; each token but the first is a target once. Prints one JSON object: loss
(nats per token), perplexity, tokens (targets: 6 of the 8 above), step.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.errors import CONFIG_EXIT, ConfigError

if TYPE_CHECKING:
    from train.weights import CheckpointName


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument("--tokens", metavar="FILE.npy", type=Path, required=True, help="file of token ids")
    parser.add_argument("--step", metavar="STEP", help="checkpoint: 40, phase-general, ... (default: the last one)")
    args = parser.parse_args(arguments)
    try:
        print(json.dumps(evaluate(args.run, args.tokens, args.step)))
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIG_EXIT
    return 0


def evaluate(run_dir: Path, tokens: Path, step: CheckpointName | None) -> dict[str, float | int]:
    """Raises ValueError or OSError for a file that holds no tokens of this model."""
    from train.config import load_run
    from train.weights import checkpoint_path, load_model

    run = load_run(run_dir)
    sequences = read_sequences(tokens, seq_len=run.timeline.seq_len, vocab_size=run.section("model").vocab_size)
    if max(map(len, sequences)) - 1 > run.timeline.seq_len:
        raise ValueError(f"{tokens}: rows of more than training.seq_len={run.timeline.seq_len} targets; cut them")
    number = int(checkpoint_path(run, step).name.removeprefix("step-"))  # first: a run that goes on adds checkpoints
    loss, targets = mean_loss(load_model(run, number), sequences, run.section("loss"))
    return {"loss": loss, "perplexity": math.exp(loss), "tokens": targets, "step": number}


def read_sequences(path: Path, *, seq_len: int, vocab_size: int) -> list[np.ndarray]:
    """Sequences of int64 ids, each of at least two. Raises ValueError or OSError where there are none."""
    try:
        with path.open("rb") as file:  # np.load would take archives too, and a text file for a pickle
            ids = np.lib.format.read_array(file)
    except ValueError as error:
        raise ValueError(f"{path}: not an array as numpy.save writes it ({error})") from error
    if ids.ndim not in (1, 2) or not np.issubdtype(ids.dtype, np.integer) or not ids.size or ids.shape[-1] < 2:
        raise ValueError(
            f"{path}: expected whole numbers, [tokens >= 2] or [rows, tokens >= 2], got {ids.dtype} {ids.shape}"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(
            f"{path}: ids {ids.min()} to {ids.max()}, expected 0 to model.vocab_size - 1 = {vocab_size - 1}"
        )
    ids = ids.astype(np.int64)
    if ids.ndim == 2:
        return list(ids)
    return [ids[start : start + seq_len + 1] for start in range(0, len(ids) - 1, seq_len)]


def mean_loss(model, sequences: list[np.ndarray], section) -> tuple[float, int]:  # type: ignore[no-untyped-def]
    """(mean cross-entropy in nats, number of targets), each sequence as one document."""
    import torch

    from train.loss import CrossEntropyZLoss
    from train.validate import sum_losses

    def microbatch(ids: np.ndarray):  # type: ignore[no-untyped-def]
        row = torch.from_numpy(ids)[None]
        return {"input": row[:, :-1], "positions": torch.arange(len(ids) - 1)[None]}, row[:, 1:].contiguous()

    loss = CrossEntropyZLoss.Config(section=section).build()
    nats, targets = sum_losses(model, map(microbatch, sequences), loss, torch.device("cpu")).tolist()
    return nats / targets, int(targets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
