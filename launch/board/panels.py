"""The dashboard of a run as plain data: sections of charts over tokens. Names are the keys that W&B gets: those of a
row (train/metrics/row.py), nested ones joined by slashes, and the marks of train/metrics/events.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from train.metrics.row import RATE

GROUPS = ("early", "middle", "late")
"""Thirds of the MoE layers (train/balance/panels.py)."""
OF_LAYERS = {
    "load_entropy": "entropy of the loads",
    "max_violation": "MaxVio, worst layer",
    "dead_experts": "experts without tokens",
    "bias_spread": "spread of the selection biases",
    "bias_change": "change of the biases in a step",
    "bias_reversals": "share of biases that turn round",
    "bias_recoil": "recoil of the biases",
    "routing_confidence": "confidence of the router",
    "router_logit_max": "largest logit of the router",
    "router_logit_std": "deviation of the router's logits",
}
"""Panel of balance -> the title of its chart."""


class Chart(NamedTuple):
    title: str
    keys: tuple[str, ...]
    log_y: bool = False


class Section(NamedTuple):
    name: str
    charts: tuple[Chart, ...]


def sections(sources: Sequence[str], optimizers: Sequence[str]) -> tuple[Section, ...]:
    """sources: names of the run's data, as data.mix has them; where none are known, their charts are left out.
    optimizers: names of those in use, as the `optimizer` section has them."""
    validation = tuple(f"validation/{source}" for source in sources)
    mix = tuple(f"mix/{source}" for source in sources)
    all_sections = (
        Section(
            "loss and phases",
            (
                Chart("training loss", ("loss",)),
                Chart("held-out loss", validation),
                Chart("phase", ("event/phase",)),
                Chart("accuracy", ("accuracy",)),
                Chart("BatchHet", ("batch_het",)),
                Chart("auxiliary losses", ("z_loss", "balance_loss")),
            ),
        ),
        Section(
            "throughput",
            (
                Chart("tokens per second", ("tokens_per_second",)),
                Chart("MFU", ("mfu",)),
                Chart("seconds of a step", ("seconds/total", "seconds/forward_backward", "seconds/optimizer")),
                Chart("waiting for data, saving", ("seconds/data", "seconds/checkpoint", "seconds/validation")),
            ),
        ),
        Section(
            "balance",
            (
                Chart("MaxVio, worst layer, every step", ("max_violation",)),
                Chart("experts without tokens, every step", ("dead_experts",)),
                *(
                    Chart(title, tuple(f"balance/{group}/{panel}" for group in GROUPS))
                    for panel, title in OF_LAYERS.items()
                ),
            ),
        ),
        Section(
            "optimizer",
            (
                Chart("gradient norm, before clipping", ("grad_norm",), log_y=True),
                Chart("learning rates", tuple(f"{RATE}{name}" for name in optimizers), log_y=True),
                Chart("sequences in a batch", ("global_batch",)),
            ),
        ),
        Section("data mix", (Chart("weights of the sources", mix), Chart("held-out loss of each source", validation))),
        Section(
            "health",
            (
                Chart("starts", ("event/start",)),
                Chart("requeues and rewinds", ("event/requeue", "event/rewind")),
                Chart("how much longer the slowest rank takes", ("slowest_excess",)),
                Chart("which rank that is", ("slowest_rank",)),
                Chart("largest logit of the head", ("lm_logit_max",)),
                Chart("logsumexp of the head", ("lm_logsumexp",)),
            ),
        ),
    )
    shown = (section._replace(charts=tuple(c for c in section.charts if c.keys)) for section in all_sections)
    return tuple(section for section in shown if section.charts)
