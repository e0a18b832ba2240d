"""Numbers that cannot be meant: what torchtitan's sections do not refuse, and what no section does.

torchtitan takes them and does what nobody wants: max_norm=-1 climbs the gradient, gc_freq=0 ends in an assertion. Its
own refusals name no key. Our sections say themselves, at the field, which signs make sense; how large a number may be
is said here for all: with one beyond what float32 or 32-bit integers hold, a run learns nothing or ends in NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from train.watchdog.config import YEAR_S

SMALLEST, LARGEST = 2.0**-126, 1e18
"""Of floats other than 0: the smallest that float32 holds in full, and the largest whose square it holds."""
MAX_COUNT = 2**31 - 1
"""Of whole numbers, but for WIDE."""
WIDE = ("debug.seed", "schedule.*")
"""A seed has 63 bits, and train/schedule/amounts.py bounds amounts of tokens."""


class Allowed(NamedTuple):
    """Which values a setting may have."""

    words: str
    """Completes: must be ..."""
    accepts: Callable[[float], bool]
    remedy: str


def at_least(low: int, remedy: str, *, high: float = math.inf) -> Allowed:
    words = f"at least {low}" if high == math.inf else f"{low} to {high:,}"
    return Allowed(words, lambda value: low <= value <= high and value != math.inf, remedy)


def at_most(high: float, remedy: str) -> Allowed:
    """For a setting whose section has its own words for what is too small."""
    return Allowed(f"at most {high:,}", lambda value: not value > high or value == math.inf, remedy)


def either(lone: int, low: int, remedy: str) -> Allowed:
    """One special value, or a number from `low` on."""
    return Allowed(f"{lone}, or at least {low}", lambda value: value == lone or low <= value < math.inf, remedy)


def only(value: int) -> Allowed:
    remedy = "it belongs to tensor, context or pipeline parallelism, which are not supported; leave it out"
    return Allowed(f"{value}", lambda given: given == value, remedy)


NO_LIMIT = "leave it out for no limit"
PROFILE = "profiler.enable_profiling=false turns profiles off"

LIMITS: dict[str, Allowed] = {
    "model.norm_eps": at_most(0.1, "activations are near 1; published configs have 1e-5"),
    "model.init_std": at_most(10, "leave it out for 0.5 / sqrt(dim)"),
    "model.route_scale": at_most(1000, "published configs have 1 to 3"),
    "model.rope_theta": Allowed(
        "1 to 1e12", lambda value: not 0 < value < 1 and not 1e12 < value < math.inf, "published configs have 10,000"
    ),
    "optimizer.*.lr": at_most(10, "published peaks are 2e-4 to 1e-3"),
    "optimizer.*.eps": at_most(1, "it is added to the root of the second moment; 1e-8 is usual"),
    "balance.speed": at_most(10, "scores lie in 0..1, and a bias moves by so much in a step"),
    "balance.sharpness": at_most(10_000, "beyond that the rule is balance=sign"),
    "balance.sequence_loss_weight": at_most(100, "Trinity Large has 1e-4"),
    "loss.z_loss_weight": at_most(100, "Trinity Large has 1e-6"),
    "training.seq_len": at_least(1, "it is the number of tokens in a window"),
    "training.max_norm": Allowed(
        "a number above 0",
        lambda value: 0 < value < math.inf,
        "0 would stop all learning and less would reverse it; 1e9 clips nothing",
    ),
    "training.gc_freq": at_least(1, "a large number collects garbage rarely; the default is 50"),
    "parallelism.pipeline_parallel_first_stage_less_layers": only(1),
    "parallelism.pipeline_parallel_last_stage_less_layers": only(1),
    "parallelism.pipeline_parallel_layers_per_stage": Allowed("null", lambda given: False, only(1).remedy),
    "parallelism.pipeline_parallel_microbatch_size": only(1),
    "checkpoint.interval": at_least(1, "the last step and the ends of phases have checkpoints whatever the interval"),
    "checkpoint.keep_latest_k": either(0, 2, "0 keeps all; the last one may be incomplete when the machine fails"),
    "checkpoint.load_step": either(-1, 1, "-1 is the latest; steps count from 1"),
    "activation_checkpoint.memory_budget": at_least(0, "1 saves nothing, 0 recomputes all", high=1),
    "comm.init_timeout_seconds": at_least(1, "the default is 300; at most a year", high=YEAR_S),
    "comm.train_timeout_seconds": at_least(1, "the default is 100; at most a year", high=YEAR_S),
    "comm.trace_buf_size": at_least(0, "0 turns the flight recorder off"),
    "debug.seed": at_least(0, "any whole number of 63 bits", high=2**63 - 1),
    "profiler.profile_freq": at_least(1, PROFILE),
    "profiler.profiler_active": at_least(1, PROFILE),
    "profiler.profiler_warmup": at_least(0, PROFILE),
    "profiler.profiler_repeat": at_least(0, NO_LIMIT),
    "profiler.profiler_skip_first": at_least(0, "leave it out to skip nothing"),
    "profiler.profiler_skip_first_wait": at_least(0, "leave it out to skip nothing"),
    "profiler.memory_snapshot_freq": at_least(1, "profiler.enable_memory_snapshot=false turns snapshots off"),
    "profiler.memory_snapshot_max_entries": at_least(1, "profiler.enable_memory_snapshot=false turns snapshots off"),
}
"""Pattern of settings -> their range. What is missing here is checked with others: degrees of parallelism and
local_batch_size in mesh.py."""


def number_problems(settings: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, str]:
    """Path -> message, of each number that cannot be meant.

    settings: as composed, where text that stands for a number counts as one, as it does for the sections.
    full: what became of those sections that their classes accept (train/config/full.py).
    """
    given = dict(leaves(settings))
    problems: dict[str, str] = {}
    for path, value in leaves(full):
        if isinstance(given.get(path), bool) and not isinstance(value, bool):  # they would count as 0 and 1
            problems[path] = f"{path}={str(given[path]).lower()}: must be a number"
        elif beyond := _beyond(path, value):
            problems[path] = f"{path}={value:,}: {beyond}" if isinstance(value, int) else f"{path}={value}: {beyond}"
    for path, value in given.items():
        allowed, number = _allowed(path), _number(value)
        if allowed and number is not None and not allowed.accepts(number):
            problems[path] = f"{path}={value}: must be {allowed.words}; {allowed.remedy}"
    return problems


def _allowed(path: str) -> Allowed | None:
    return next((allowed for pattern, allowed in LIMITS.items() if fnmatchcase(path, pattern)), None)


def _beyond(path: str, value: object) -> str | None:
    """Why a number of any setting cannot be computed with."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
        return f"must be within what float32 computes with, {SMALLEST:.0e} to {LARGEST:.0e}"
    if isinstance(value, int) and value > MAX_COUNT and not any(fnmatchcase(path, pattern) for pattern in WIDE):
        return f"must be at most {MAX_COUNT:,}"
    return None


def leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in nested mappings and lists; elements of lists by their number, empty ones whole."""
    if settings and isinstance(settings, Mapping | list):
        pairs = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
        for key, value in pairs:
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, settings


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):  # no number: the section's class says so
        return None
