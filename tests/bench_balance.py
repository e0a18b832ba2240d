"""What balancing and counting cost, as shares of a step of the smoke model.

    python -m tests.bench_balance [--rounds 60]

One rank with its share of the smoke batch, one thread, the real trainer. Two measurements in one run:

- Steps take turns with balance=smebu (and the sequence-wise loss) and balance=none. The ratio is the median over pairs
  of neighbours, in CPU seconds; on a shared machine its error is about a percent, so the quartiles are given with it.
- Every part of balancing is timed where it happens, in the steps with smebu: precise, and an upper bound, as counting
  and panels are there with balance=none, too, and the collectives bring the losses as well. The picture of the loads is
  left out; it takes 0.3 s, and 1 s the first time, in every metrics.heatmap_every-th step.

Ends with status 1 where the parts are more than a percent of the step.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from train.__main__ import main as train

OVERRIDES = [
    *("experiment=smoke", "parallelism=single", "training.local_batch_size=6", "validation.windows=0"),
    *("schedule.batch=[{from_tokens: 0, sequences: 6}]", "checkpoint.enable=false"),
    *("metrics.wandb=disabled", "metrics.console=false", "metrics.heatmap_every=0"),
]
WARM_UP = 4  # steps: the first ones allocate and fill caches
BOUND = 0.01
PARTS = {
    "train.afmoe.moe.attach_balance_loss": "balance loss, forward",
    "train.afmoe.moe._BalanceLoss.backward": "balance loss, backward",
    "train.afmoe.tally.Tally.add_": "counting",
    "train.afmoe.tally.Tally.add_router_": "router, for panels",
    "train.loop.trainer.take_": "counts of all layers, stacked",
    "train.loop.trainer.total": "over all ranks, with the losses",
    "train.loop.soundness.first_unsound_router": "is a router NaN?",
    "train.loop.trainer.check_counts": "do the counts add up?",
    "train.balance.balancer.Balancer.update_biases_": "SMEBU",
    "train.loop.record.max_violation": "MaxVio",
    "train.balance.watch.BalanceWatch.observe": "panels, alarm (with their MaxVio)",
}
"""Function -> what it does."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_balance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60, help="pairs of steps (default: 60; a pair takes a second)")
    steps, parts = measure(parser.parse_args(arguments).rounds)
    ratios = [smebu / none - 1 for smebu, none in zip(steps["smebu"], steps["none"], strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    print(f"smebu over none            {middle:+.2%}, quartiles {low:+.2%} and {high:+.2%}")
    step = median(steps["smebu"])
    print(f"a step of smebu            {1e3 * step:.0f} ms of CPU, of which")
    for name, what in PARTS.items():
        print(f"  {what:<36}{1e3 * parts[name]:>8.3f} ms{parts[name] / step:>9.3%}")
    share = sum(parts.values()) / step
    print(f"  {'together':<36}{1e3 * sum(parts.values()):>8.3f} ms{share:>9.3%}, allowed: {BOUND:.0%}")
    return int(share > BOUND)


def measure(rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(CPU seconds of each step of either kind, CPU seconds of each part in a mean step of smebu)."""
    from train.balance.rules.none import NoRule
    from train.loop.build import Trainer

    train_step = Trainer.train_step
    steps: dict[str, list[float]] = {"smebu": [], "none": []}
    parts = dict.fromkeys(PARTS, 0.0)

    def timed_step(trainer: Trainer, data_iterator: Any) -> None:
        number, turn = divmod(trainer.step - 1, 2)
        is_smebu = (turn + number) % 2 == 0  # neither is always the first of a pair
        balancer, configured = trainer.balancer, trainer.balancer.config
        is_counted = trainer.step > WARM_UP
        balancer.config = configured if is_smebu else NoRule(alarm=configured.alarm)
        with timers(parts) if is_smebu and is_counted else ExitStack():
            started = time.process_time()
            train_step(trainer, data_iterator)
            seconds = time.process_time() - started
        balancer.config = configured
        if is_counted:
            steps["smebu" if is_smebu else "none"].append(seconds)

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, patch.object(Trainer, "train_step", timed_step):
        code = train([*OVERRIDES, f"run.dir={folder}/run", f"run.stop_after_step={WARM_UP + 2 * rounds}"])
    if code:
        sys.exit(code)
    return steps, {name: seconds / rounds for name, seconds in parts.items()}


@contextmanager
def timers(parts: dict[str, float]) -> Iterator[None]:
    """Adds to `parts` the CPU seconds that each function takes inside of the context."""
    with ExitStack() as stack:
        for name in parts:
            stack.enter_context(patch(name, timed(pkgutil.resolve_name(name), name, parts)))
        yield


def timed(function: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        result = function(*args, **kwargs)
        parts[name] += time.process_time() - started
        return result

    return staticmethod(call) if name.endswith(".backward") else call


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
