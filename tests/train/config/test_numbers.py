"""No number of any section may be one that cannot be meant."""

from __future__ import annotations

from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from train.config.check import check
from train.config.full import completed
from train.config.rules.numbers import LIMITS, leaves

NAN, INF = float("nan"), float("inf")
TRIED = (NAN, INF, -1, 0)
HUGE = {int: (10**24,), float: (1e308, 1e-320)}
"""By the type of the setting: more than 64 bits hold, and what float32 has no number for."""

OPTIONAL = (
    "run.stop_after_step",
    "model.init_std",
    "data.max_epochs",
    "parallelism.pipeline_parallel_layers_per_stage",
    "profiler.profiler_repeat",
    "profiler.profiler_skip_first",
    "profiler.profiler_skip_first_wait",
    "profiler.memory_snapshot_freq",
)
"""Numbers that are null in the configuration below."""

ALLOWED: dict[str, tuple[float, ...]] = {
    "model.num_dense_layers": (0,),  # every layer has experts
    "model.num_shared_experts": (0,),
    "optimizer.muon.momentum": (0,),
    "optimizer.adamw.betas.*": (0,),
    "optimizer.*.weight_decay": (0,),
    "balance.speed": (0,),  # 0 turns a part of the rule off, as in a control
    "balance.sharpness": (0,),
    "balance.momentum": (0,),
    "balance.sequence_loss_weight": (0,),
    "balance.alarm.max_violation": (0,),  # warns of anything
    "balance.alarm.dead_share": (0,),
    "loss.z_loss_weight": (0,),
    "data.mix.*": (0,),  # of one source, as long as another of the phase has a weight
    "data.held_out": (0,),  # nothing is held out
    "schedule.batch.0.from_tokens": (0,),  # it has to be
    "schedule.warmup_tokens": (0,),
    "schedule.decay.from_tokens": (0,),  # from the first step on
    "schedule.decay.floor": (0,),
    "parallelism.data_parallel_shard_degree": (-1,),  # the ranks that are left
    "checkpoint.keep_latest_k": (0,),  # all
    "checkpoint.load_step": (-1,),  # the latest
    "activation_checkpoint.memory_budget": (0,),  # recompute everything
    "comm.trace_buf_size": (0,),  # no flight recorder
    "debug.seed": (0,),
    "profiler.profiler_warmup": (0,),
    "profiler.profiler_repeat": (0,),  # to the end
    "profiler.profiler_skip_first*": (0,),
    "metrics.*_every": (0,),  # never
    "validation.windows": (0,),  # off
}
"""Pattern of paths -> those of the tried values that can be meant."""


def settings() -> dict[str, Any]:
    compiled = ["compile.enable=true", "training.mixed_precision_param=bfloat16"]
    composed = compose(["experiment=smoke", "activation_checkpoint.kind=memory_budget", *compiled])
    return completed(composed | {"parallelism": composed["parallelism"] | {"expert_parallel_degree": 1}})


SETTINGS = settings()


def changed(path: str, value: float) -> dict[str, Any]:
    """SETTINGS with another number at `path`."""
    result: Any = deepcopy(SETTINGS)
    *parents, key = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = result
    for parent in parents:
        node = node[parent]
    node[key] = value
    return result


def value_at(path: str) -> Any:
    return dict(leaves(SETTINGS))[path]


def numbers() -> list[str]:
    """Paths of every number that a configuration has or can have."""
    return [*(path for path, value in leaves(SETTINGS) if type(value) in (int, float)), *OPTIONAL]


def problems_of(path: str, value: float) -> list[str]:
    try:
        check(changed(path, value))
    except ConfigError as refusal:
        return refusal.problems
    return []


@pytest.mark.parametrize("path", numbers())
def test_a_number_that_cannot_be_meant_is_refused_by_name(path: str) -> None:
    allowed = {value for pattern, values in ALLOWED.items() if fnmatchcase(path, pattern) for value in values}
    assert not [value for value in TRIED if value in allowed and problems_of(path, value)]
    for value in (*TRIED, *HUGE[float if isinstance(value_at(path), float) else int]):
        if value in allowed:
            continue
        problems = problems_of(path, value)
        named = [
            problem for problem in problems if all(part in problem for part in path.split(".") if not part.isdigit())
        ]
        assert len(problems) == len(named) == 1, (value, problems)


def test_every_exception_is_of_a_number_that_there_is() -> None:
    assert not [pattern for pattern in ALLOWED if not any(fnmatchcase(path, pattern) for path in numbers())]
    assert not [pattern for pattern in LIMITS if not any(fnmatchcase(path, pattern) for path in numbers())]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.max_norm=-1", "training.max_norm=-1: must be a number above 0; 0 would stop all learning"),
        ("training.max_norm=0", "training.max_norm=0: must be a number above 0"),
        ('training.max_norm="nan"', "training.max_norm=nan: must be a number above 0"),  # text that reads as a number
        ("training.max_norm=true", "training.max_norm=true: must be a number"),  # which would count as 1
        ("training.gc_freq=0", "training.gc_freq=0: must be at least 1; "),
        ("training.seq_len=0", "training.seq_len=0: must be at least 1; "),
        ("validation.windows=-1", "validation.windows=-1: must not be negative; 0 turns validation off"),
        ("checkpoint.keep_latest_k=1", "checkpoint.keep_latest_k=1: must be 0, or at least 2; "),
        ("checkpoint.load_step=0", "checkpoint.load_step=0: must be -1, or at least 1; "),
        ("comm.init_timeout_seconds=1e12", "comm.init_timeout_seconds=1000000000000.0: must be 1 to 31,536,000; "),
        ("run.stop_after_step=0", "run.stop_after_step=0: must be at least 1, or null"),
        ("schedule.token_scale=1e300", "schedule.token_scale must be positive, and at most 1,000, got 1e+300"),
        ("schedule.phases.0.tokens=9999999999T", "schedule.phases.0.tokens: '9999999999T' is beyond 1e+06T tokens"),
        ("schedule.batch.0.sequences=1000000000000", "schedule.batch.0.sequences must be positive, and at most"),
        ("model.dim=100000000000000", "model.dim must be below 2,147,483,648, got 100000000000000"),
        ("optimizer.muon.lr=11", "optimizer.muon.lr=11: must be at most 10; published peaks are"),
        ("model.rope_theta=0.5", "model.rope_theta=0.5: must be 1 to 1e12; published configs have 10,000"),
        (
            "training.max_norm=1e-320",
            "training.max_norm=1e-320: must be within what float32 computes with, 1e-38 to 1e+18",
        ),
        ("balance.alarm.steps=3000000000", "balance.alarm.steps=3,000,000,000: must be at most 2,147,483,647"),
        ("training=null", "training: got None, expected a section with keys"),
        ("training=3", "training: got 3, expected a section with keys"),
        ("schedule.decay.floor=2", "schedule.decay.floor must lie in 0..1, got 2.0"),
        ("data.mix.stem.code=-1", "data.mix.stem.code: a weight is a number >= 0, got -1.0"),
        ("data.mix.stem={code: 0}", "data.mix.stem: all weights are 0"),
        ("comm.mode=fake_backend", "comm.mode=fake_backend: ranks would not talk to each other"),
        ("checkpoint.exclude_from_loading=[optimizer]", "checkpoint.exclude_from_loading=['optimizer']: must be empty"),
    ],
)
def test_the_message_says_what_is_allowed(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check(compose(["experiment=smoke", override]))
    (problem,) = refusal.value.problems
    assert problem.startswith(said)


def test_a_profile_has_room_for_its_steps() -> None:
    on = ["experiment=smoke", "profiler.enable_profiling=true"]
    check(compose(on))
    with pytest.raises(ConfigError, match=r"^profiler\.profile_freq=3: must be at least .* = 4$"):
        check(compose([*on, "profiler.profile_freq=3"]))
