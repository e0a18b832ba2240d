"""Rows as a progress bar."""

from __future__ import annotations

import sys

from tqdm import tqdm

from data_pipelines.base.progress import progress_bar
from train.metrics.row import Losses, Row
from train.schedule.amounts import format_tokens

NOT_VALIDATED = (
    "no validation in this run: nothing is held out (no held-out shards, data.held_out=0 or validation.windows=0)"
)


class Console:
    """A bar over the tokens up to the last step of this start, and what one wants to see of the newest."""

    def __init__(self, *, tokens: int, seen: int, num_steps: int):
        self._num_steps = num_steps
        self._bar = progress_bar(
            total=tokens,
            initial=seen,
            unit="tok",
            unit_scale=True,
            file=sys.stdout,
            bar_format="{desc} |{bar:20}| {n_fmt}/{total_fmt} tokens, {remaining} left{postfix}",
        )

    def write(self, row: Row) -> None:
        self._bar.set_description_str(f"{row['phase']:<12} step {row['step']:>4}/{self._num_steps}", refresh=False)
        self._bar.set_postfix_str(
            f"loss {row['loss']:.3f}, grad {row['grad_norm']:.2f}, MaxVio {row['max_violation']:.2f}, "
            f"{row['tokens_per_second']:,.0f} tok/s",
            refresh=False,
        )
        self._bar.update(row["tokens"] - self._bar.n)
        for warning in filter(None, (row.get("alarm"), row.get("spike"))):
            tqdm.write(f"WARNING: step {row['step']}: {warning}", file=sys.stdout)
        if "initial_validation" in row:
            untrained = row["initial_validation"]
            tqdm.write(f"untrained: validation {_losses(untrained)}" if untrained else NOT_VALIDATED, file=sys.stdout)
        if losses := row.get("validation"):
            step = f"step {row['step']}, {format_tokens(row['tokens'])} tokens"
            tqdm.write(f"{step}: validation {_losses(losses)}", file=sys.stdout)

    def close(self, exit_code: int = 0) -> None:
        self._bar.close()


def _losses(by_source: Losses) -> str:
    return ", ".join(f"{source} {loss:.3f}" for source, loss in by_source.items())
