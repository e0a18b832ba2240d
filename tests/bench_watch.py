"""What watching a run costs, as a share of a step of the smoke model: heartbeat, flags, the slowest rank.

    python -m tests.bench_watch [--steps 40]

One rank with its share of the smoke batch, one thread, the real trainer. What the training thread does is timed where
it happens; the three figures that travel with the sums of a step (was a rank asked to stop? how long did all take, and
the slowest?) and the words of the watchdog's thread are timed by themselves, the latter with the store that answers
them, and spread over the watchdog's period. All in CPU seconds.

Ends with status 1 where all of it is more than 0.2 percent of the step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from tests.bench_balance import OVERRIDES, WARM_UP, timers
from train.__main__ import main as train

BOUND = 0.002
PARTS = {
    "train.watchdog.pulse.Pulse.begin_step": "which step it is",
    "train.watchdog.pulse.Pulse.enter": "what it is doing",
    "train.loop.local_work._HostClock.now": "local work begins",
    "train.loop.local_work._HostClock.add_since": "local work ends",
    "train.loop.local_work._HostClock.pop_seconds": "local work of the step",
    "train.loop.totals.join_slowest": "seconds and rank in one number",
}
"""Function -> what it says."""
FIGURES = 3
REPEATS = 2000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="steps that are timed (default: 40)")
    steps, parts = measure(parser.parse_args(arguments).steps)
    step = median(steps)
    lines = {what: parts[name] for name, what in PARTS.items()}
    lines[f"{FIGURES} figures among the sums"] = cost_of_figures()
    lines["words of the watchdog"] = cost_of_words() * step
    print(f"a step                       {1e3 * step:.0f} ms of CPU, of which")
    for what, seconds in lines.items():
        print(f"  {what:<34}{1e3 * seconds:>9.4f} ms{seconds / step:>10.4%}")
    share = sum(lines.values()) / step
    print(f"  {'together':<34}{1e3 * sum(lines.values()):>9.4f} ms{share:>10.4%}, allowed: {BOUND:.1%}")
    return int(share > BOUND)


def measure(num_steps: int) -> tuple[list[float], dict[str, float]]:
    """(CPU seconds of each step, CPU seconds of each part in a mean step)."""
    from train.loop.build import Trainer

    train_step = Trainer.train_step
    steps: list[float] = []
    parts = dict.fromkeys(PARTS, 0.0)

    def timed_step(trainer: Trainer, data_iterator: Any) -> None:
        started = time.process_time()
        train_step(trainer, data_iterator)
        steps.append(time.process_time() - started)

    torch.set_num_threads(1)
    last = f"run.stop_after_step={WARM_UP + num_steps}"
    with TemporaryDirectory() as folder, patch.object(Trainer, "train_step", timed_step), timers(parts):
        code = train([*OVERRIDES, f"run.dir={folder}/run", last])
    if code:
        sys.exit(code)
    return steps[WARM_UP:], {name: seconds / len(steps) for name, seconds in parts.items()}


def cost_of_figures() -> float:
    """CPU seconds that a step takes longer for FIGURES numbers more among those that are summed up."""
    from train.loop.reduce import reduce_together

    others = [torch.zeros(1000, dtype=torch.float64)]

    def reduce(number: int) -> None:
        reduce_together([*others, *(torch.tensor([0.5], dtype=torch.float64) for _ in range(number))], group=None)

    return seconds_of(lambda: reduce(FIGURES)) - seconds_of(lambda: reduce(0))


def cost_of_words() -> float:
    """CPU seconds of a rank for each second of a run, the store's included."""
    from train.watchdog.config import WatchdogConfig
    from train.watchdog.pulse import Pulse
    from train.watchdog.watchdog import Watchdog

    config = WatchdogConfig()
    watchdog = Watchdog(config, Pulse(), Path(), stacks=0)  # in the process group that the trainer has left
    return seconds_of(watchdog.speak_and_look) / config.period_s


def seconds_of(function: Callable[[], object]) -> float:
    """CPU seconds of a call, the mean of many."""
    function()
    started = time.process_time()
    for _ in range(REPEATS):
        function()
    return (time.process_time() - started) / REPEATS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
