"""Is a step sound, and the data that a run goes on with? Checked before a weight or a bias changes, on every rank with
the same numbers.

L = MoE layers, E = experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipelines.base.errors import RunError
from data_pipelines.batches.account import FILE_NAME, Account, account_problems, open_account, read_account
from data_pipelines.batches.loader import PlanLoader
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.manifest import DataError
from train.engine.together import on_all_ranks
from train.loop.reduce import reduce_together
from train.loop.totals import Totals, format_digest, split_digest
from train.metrics.jsonl import read_rows
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


def open_books(
    checkpoint: Path | None, run_dir: Path, plan: Plan, *, step: int, window: int
) -> tuple[Account, dict[int, str]]:
    """On rank 0: the books of the checkpoint, and the digests that the run has recorded of steps after it.

    checkpoint: None where the run begins; step, window: of it. Raises RunError where the books are not the plan's.
    """
    try:
        account = read_account(checkpoint) if checkpoint else None
    except DataError as error:
        raise RunError(str(error)) from error
    if account is None:
        account = open_account(plan, step=step, next_window=window)
    if problems := account_problems(account, plan, step=step, next_window=window):
        raise RunError(
            f"{checkpoint}/{FILE_NAME}: {'; '.join(problems)}. Tokens were served that this plan does not have, or the "
            "other way round: use the version and the data that the run was started with, or choose another run.dir"
        )
    rows = (row for row in read_rows(run_dir) if row["step"] > step and row["tokens"] <= plan.unedited_tokens)
    return account.under(plan), {row["step"]: row["batch_digest"] for row in rows}


def check_last_batch(account: Account, step: Step, loader: PlanLoader, *, group: dist.ProcessGroup | None) -> None:
    """Reads the batch that was trained on last once more, each rank its share. Raises RunError on every rank where it
    is another now, and whatever the shards raise on one."""
    rank, num_ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    windows = range(step.first_window + rank, step.first_window + step.num_windows, num_ranks)
    own = on_all_ranks(partial(loader.digest_of, windows), None)
    (halves,) = reduce_together([torch.tensor(split_digest(own))], group=group)
    found = format_digest(halves.tolist())
    if found != account.digest:
        raise RunError(
            f"step {step.number} (windows {step.first_window:,} to {step.first_window + step.num_windows - 1:,}) has "
            f"digest {found} now; {account.digest} when it was trained: shards or their order have changed since. "
            "Restore the corpus, and the version that the run was started with, or choose another run.dir"
        )


def check_redone(step: Step, digest: str, redone: dict[int, str], run_dir: Path) -> None:
    """Raises RunError where a step is trained again with another batch than before; every rank has the same numbers."""
    before = redone.get(step.number, digest)
    if before != digest:
        raise RunError(
            f"step {step.number} has digest {digest}; the row of its first time in {run_dir} says {before}: shards or "
            "their order have changed since. The weights have not been changed by it. Restore the corpus, and the "
            "version that the run was started with, or choose another run.dir"
        )
