"""Loss of a run's checkpoint on tokens of your own.

    python -c "import numpy; numpy.save('tokens.npy', [[1, 2, 3, 4], [5, 6, 7, 8]])"
    python -m train.evaluate runs/smoke --tokens tokens.npy --step 40

The file holds token ids. Two dimensions: each row is a sequence, its first token is only read. One dimension: a stream,
cut into windows of training.seq_len targets; each token but the first is a target once. Prints one JSON object: loss
(nats per token), perplexity, tokens (targets: 6 of the 8 above), step.
"""

from __future__ import annotations

from data_pipelines.base.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("")  # before the imports that take time: Ctrl-C is one line from now on

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, answers_errors
from train.evaluation.tokens import mean_loss, read_sequences

if TYPE_CHECKING:
    from train.checkpoint.reader import CheckpointName


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m train.evaluate", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument("--tokens", metavar="FILE.npy", type=Path, required=True, help="file of token ids")
    parser.add_argument("--step", metavar="STEP", help="checkpoint: 40, phase-general, ... (default: the last one)")
    args = parser.parse_args(arguments)
    print(json.dumps(evaluate(args.run, args.tokens, args.step)))
    return 0


def evaluate(run_dir: Path, tokens: Path, step: CheckpointName | None) -> dict[str, float | int]:
    """Raises ValueError or OSError for a file that holds no tokens of this model."""
    from train.checkpoint.reader import checkpoint_path, load_model
    from train.config.check import load_run

    run = load_run(run_dir)
    sequences = read_sequences(tokens, seq_len=run.timeline.seq_len, vocab_size=run.model.vocab_size)
    if max(map(len, sequences)) - 1 > run.timeline.seq_len:
        raise ValueError(f"{tokens}: rows of more than training.seq_len={run.timeline.seq_len} targets; cut them")
    number = int(
        checkpoint_path(run.checkpoint_dir, step).name.removeprefix("step-")
    )  # first: a run that goes on adds checkpoints
    loss, targets = mean_loss(
        load_model(run.checkpoint_dir, run.model, seq_len=run.timeline.seq_len, step=number), sequences, run.loss
    )
    return {"loss": loss, "perplexity": math.exp(loss), "tokens": targets, "step": number}


if __name__ == "__main__":
    run_command(main, first_words="train.evaluate: the engine takes some seconds to load")
