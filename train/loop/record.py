"""What a step leaves: its row (train/metrics/row.py), made of its figures, and the stop that an alarm asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from data_pipelines.base.errors import RunError
from train.balance.measures import dead_experts, max_violation
from train.loop.totals import Totals
from train.metrics.row import Rates, Row, Seconds, Speed, Validated, Watched, finite_or_none
from train.schedule.timeline import Step


def make_row(
    step: Step,
    totals: Totals,
    *,
    seq_len: int,
    layer_ids: Sequence[str],
    grad_norm: float,
    rates: Mapping[str, float],
    z_loss_weight: float,
    balance_loss_weight: float,
    watched: Watched,
    validated: Validated,
    speed: Speed,
    chain: str,
) -> Row:
    """The row of a step. Pure.

    rates: of the step, by metric name; layer_ids: of the MoE layers; chain: of the digests up to it.
    """
    violations = max_violation(totals.routing.counts_LE).tolist()
    return {
        "step": step.number,
        "tokens": (step.first_window + step.num_windows) * seq_len,
        "phase": step.phase,
        "loss": totals.loss,
        "accuracy": totals.accuracy,
        "lm_logit_max": finite_or_none(totals.max_logit),
        "lm_logsumexp": finite_or_none(totals.mean_lse),
        "z_loss": z_loss_weight * totals.mean_z,
        "balance_loss": balance_loss_weight * float(totals.balance_loss_L.sum()),
        "grad_norm": grad_norm,
        **cast(Rates, rates),
        "global_batch": step.num_windows,
        "max_violation": max(violations),
        "max_violation_by_layer": dict(zip(layer_ids, violations, strict=True)),
        "dead_experts": int(dead_experts(totals.routing.counts_LE).sum()),
        "batch_het": totals.batch_het,
        "batch_digest": totals.digest,
        "batch_chain": chain,
        "slowest_rank": totals.slowest_rank,
        "slowest_excess": totals.slowest_excess,
        **watched,
        **validated,
        **speed,
    }


def measure_speed(
    lap: Mapping[str, float], *, save_seconds: float, tokens: int, flops_per_token: float, peak_flops: float
) -> Speed:
    """How long a step of `tokens` tokens took.

    lap: seconds of its parts, and of all as `total` (train/loop/stopwatch.py); save_seconds: of the checkpoint that was
    saved in it; peak_flops: per second, of all devices together.
    """
    seconds: Seconds = {
        "data": lap.get("data", 0.0),
        "forward_backward": lap.get("forward_backward", 0.0),
        "optimizer": lap.get("optimizer", 0.0),
        "validation": lap.get("validation", 0.0),
        "total": lap["total"],
        "checkpoint": save_seconds,
    }
    tokens_per_second = tokens / lap["total"]
    mfu = finite_or_none(tokens_per_second * flops_per_token / peak_flops)
    return {"seconds": seconds, "tokens_per_second": tokens_per_second, "mfu": mfu}


def stop_at_alarm(row: Row) -> None:
    """Raises RunError where the row has an alarm. The row is written by then, so that it says why."""
    if "alarm" in row:
        raise RunError(
            f"step {row['step']}: {row['alarm']}. The run stops because of balance.alarm.stop=true; the last "
            "checkpoint stands. Look at loads.png and at by_layer in metrics.jsonl. The same command goes on from "
            "the checkpoint; balance.alarm.stop=false takes it past this step."
        )
