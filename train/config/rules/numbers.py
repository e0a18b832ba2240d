"""Numbers that cannot be meant, in sections that torchtitan owns; ours say so themselves, at the field.

torchtitan takes them and does what nobody wants: max_norm=-1 climbs the gradient, gc_freq=0 ends in an assertion. Its
own refusals name no key. No number of any section may be NaN or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

YEAR_S = 365 * 24 * 3600


class Allowed(NamedTuple):
    """Which values a setting may have."""

    words: str
    """Completes: must be ..."""
    accepts: Callable[[float], bool]
    remedy: str


def at_least(low: int, remedy: str, *, high: float = math.inf) -> Allowed:
    words = f"at least {low}" if high == math.inf else f"{low} to {high:,}"
    return Allowed(words, lambda value: low <= value <= high and value != math.inf, remedy)


def either(lone: int, low: int, remedy: str) -> Allowed:
    """One special value, or a number from `low` on."""
    return Allowed(f"{lone}, or at least {low}", lambda value: value == lone or low <= value < math.inf, remedy)


def only(value: int) -> Allowed:
    remedy = "it belongs to tensor, context or pipeline parallelism, which are not supported; leave it out"
    return Allowed(f"{value}", lambda given: given == value, remedy)


NO_LIMIT = "leave it out for no limit"
PROFILE = "profiler.enable_profiling=false turns profiles off"

LIMITS: dict[str, Allowed] = {
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
"""Path of a setting -> its range. What is missing here is checked with others: degrees of parallelism and
local_batch_size in mesh.py."""


def number_problems(settings: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, str]:
    """Path -> message, of each number that cannot be meant.

    settings: as composed, where text that stands for a number counts as one, as it does for the sections.
    full: what became of those sections that their classes accept (train/config/full.py).
    """
    given = dict(leaves(settings))
    problems: dict[str, str] = {}
    for path, value in leaves(full):
        if isinstance(value, float) and not math.isfinite(value):
            problems[path] = f"{path}={value}: must be a finite number"
        elif isinstance(given.get(path), bool) and not isinstance(value, bool):  # they would count as 0 and 1
            problems[path] = f"{path}={str(given[path]).lower()}: must be a number"
    for path, allowed in LIMITS.items():
        value = given.get(path)
        if (number := _number(value)) is not None and not allowed.accepts(number):
            problems[path] = f"{path}={value}: must be {allowed.words}; {allowed.remedy}"
    return problems


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
