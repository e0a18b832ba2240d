"""Is a step sound? Checked before a weight or a bias changes, on every rank with the same numbers.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from data_pipelines.base.errors import RunError
from train.loop.totals import Totals
from train.schedule.timeline import Step


def stop_unless_finite(
    step: Step, totals: Totals, *, grad_norm: float, layer_ids: Sequence[str], run_dir: Path
) -> None:
    """Raises RunError where a figure is NaN or infinite. All ranks hold the same numbers, so all stop, or none."""
    figures = {
        "loss": totals.loss,
        "z": totals.mean_z,
        **first_unsound_router(totals.balance_loss_L, layer_ids),
        "gradient norm": grad_norm,
    }
    wrong = {name: value for name, value in figures.items() if not math.isfinite(value)}
    if wrong:
        raise RunError(
            f"step {step.number} ({step.phase}, windows {step.first_window:,} to "
            f"{step.first_window + step.num_windows - 1:,}): {', '.join(f'{k} is {v}' for k, v in wrong.items())}. "
            "The weights have not been changed by it; the last checkpoint stands. Look at the data of the step: "
            f"`python -m data_pipelines.explain {run_dir} --step {step.number}`, or lower the learning rates."
        )


def first_unsound_router(balance_loss_L: Tensor, layer_ids: Sequence[str]) -> dict[str, float]:
    """{"router of layer 3 (...)": nan} of the first layer whose scores are NaN, if there is one; others follow it.

    balance_loss_L: a mean over all scores of a layer, so that one that is NaN makes it NaN.
    """
    for layer, loss in zip(layer_ids, balance_loss_L.tolist(), strict=True):
        if not math.isfinite(loss):
            return {f"router of layer {layer} (its logits or its input)": loss}
    return {}


def check_counts(counts_LE: Tensor, layer_ids: Sequence[str], *, tokens: int, top_k: int) -> None:
    """Raises RunError unless each layer routed every token of the step exactly top_k times."""
    for layer_id, total in zip(layer_ids, counts_LE.sum(-1).tolist(), strict=True):
        if total != tokens * top_k:
            raise RunError(
                f"layer {layer_id} counted {total:,} routed tokens; {tokens:,} tokens x top_k {top_k} = "
                f"{tokens * top_k:,} were expected. Biases would follow wrong loads, so the run stops."
            )
