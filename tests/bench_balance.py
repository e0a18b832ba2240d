"""What balancing and counting cost, as shares of a step of the smoke model.

    python -m tests.bench_balance [--rounds 40]

One rank with its share of the smoke batch, one thread, the real trainer. Its steps take turns: balance=smebu with the
sequence-wise loss, balance=none, and `bare`, none without counting. A ratio is the median over the rounds of CPU
seconds within a round, so that what a shared machine does to all of them cancels; the quartiles are given with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from train import metrics
from train.__main__ import main as train
from train.balance import BalanceConfig
from train.model.tally import Tally

OVERRIDES = [
    *("experiment=smoke", "parallelism=single", "training.local_batch_size=6", "validation.windows=0"),
    *("schedule.batch=[{from_tokens: 0, sequences: 6}]", "checkpoint.enable=false"),
    *("metrics.wandb=disabled", "metrics.console=false"),
]
WARM_UP = 2  # rounds: the first steps allocate and fill caches


@contextmanager
def uncounted() -> Iterator[None]:
    """Counts nothing, and so checks and shows nothing."""
    no_counts = patch.object(Tally, "add_", lambda tally, *args, **kwargs: tally.counts_E.fill_(1))  # MaxVio has a mean
    no_panels = patch("train.watch.is_due", lambda every, step: False)
    with no_counts, no_panels, patch.object(metrics, "check_counts"):
        yield


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_balance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="default: 40; a round takes some 2 s")
    rounds = parser.parse_args(arguments).rounds
    seconds = measure(rounds)
    print(f"{'step':<8}{'CPU seconds, median':>22}{'over bare, median':>20}{'quartiles of the rounds':>28}")
    for name, values in seconds.items():
        ratios = [value / bare - 1 for value, bare in zip(values, seconds["bare"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        print(f"{name:<8}{median(values):>22.4f}{median(ratios):>+20.2%}{f'{low:+.2%} .. {high:+.2%}':>28}")
    return 0


def measure(rounds: int) -> dict[str, list[float]]:
    """Variant -> CPU seconds of its step in each round."""
    from train.trainer import Trainer

    train_step = Trainer.train_step
    variants: dict[str, tuple[BalanceConfig | None, Callable]] = {
        "smebu": (None, nullcontext),
        "none": (BalanceConfig(kind="none"), nullcontext),
        "bare": (BalanceConfig(kind="none"), uncounted),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}

    def timed_step(trainer, data_iterator) -> None:  # type: ignore[no-untyped-def]
        number, turn = divmod(trainer.step - 1, len(variants))
        name = list(variants)[(turn + number) % len(variants)]  # none is always the first of a round
        config, context = variants[name]
        configured = trainer.balancer.config
        trainer.balancer.config = config or configured
        started = time.process_time()
        with context():
            train_step(trainer, data_iterator)
        seconds[name].append(time.process_time() - started)
        trainer.balancer.config = configured

    torch.set_num_threads(1)
    num_steps = len(variants) * (rounds + WARM_UP)
    with TemporaryDirectory() as folder, patch.object(Trainer, "train_step", timed_step):
        code = train([*OVERRIDES, f"run.dir={folder}/run", f"run.stop_after_step={num_steps}"])
    if code:
        sys.exit(code)
    return {name: values[WARM_UP:][:rounds] for name, values in seconds.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
