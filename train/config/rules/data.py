"""Rules between data, model and schedule."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from math import inf

from torchtitan.config import TrainingConfig

from data_pipelines.corpora.config import Weights
from data_pipelines.corpora.kinds import AnyData
from data_pipelines.plan.budgets import mix_problems
from train.afmoe.config import ModelConfig
from train.schedule.config import ScheduleConfig


def sequence_fits_the_model(training: TrainingConfig, model: ModelConfig) -> str | None:
    if not 0 < training.seq_len <= model.max_seq_len:
        return f"training.seq_len={training.seq_len}: must lie in 1..model.max_seq_len={model.max_seq_len}"
    return None


def vocabulary_fits_the_model(data: AnyData, model: ModelConfig) -> str | None:
    """A tokenizer that exists already is measured when the data is opened."""
    new_ids = data.new_vocab_size()
    if new_ids is not None and new_ids > model.vocab_size:
        return (
            f"data.vocab_size={new_ids}: the tokenizer would have ids beyond "
            f"model.vocab_size={model.vocab_size}; lower the one or raise the other"
        )
    return None


def mix_names_phases_and_sources(data: AnyData, schedule: ScheduleConfig) -> str | None:
    """Several phases differ by what they are made of: that each source has its own share in all of them is said."""
    if data.mix == "proportional":
        return None
    phases, sources = [phase.name for phase in schedule.phases], data.source_names()
    if data.mix is None and (len(phases) == 1 or len(sources) < 2):
        return None
    problems = (
        mix_problems(data.mix, phases, sources)
        if data.mix
        else [f"data.mix: missing, there are {len(phases)} phases and {len(sources)} sources ({', '.join(sources)})"]
    )
    if not problems:
        return None
    example = shlex.quote(f"data.mix={_completed(data.mix or {}, phases, sources)}")
    return (
        f"{'; '.join(problems)}; give every phase weights of its sources, {example}, or set data.mix=proportional: "
        "sources by their size, in every phase"
    )


def _completed(mix: Mapping[str, Weights], phases: list[str], sources: list[str]) -> str:
    """What can be used of `mix`, and equal weights where a phase has none, in Hydra's grammar."""
    weights = {}
    for phase in phases:
        given = {name: weight for name, weight in mix.get(phase, {}).items() if name in sources and 0 <= weight < inf}
        usable = given if any(given.values()) else dict.fromkeys(sources, 1.0)
        weights[phase] = _braces({name: f"{weight:g}" for name, weight in usable.items()})
    return _braces(weights)


def _braces(values: Mapping[str, str]) -> str:
    keys = {name: re.sub(r"[\\()\[\]{}:=, \t]", r"\\\g<0>", name) for name in values}  # Hydra takes no quotes there
    return "{" + ", ".join(f"{keys[name]}: {value}" for name, value in values.items()) + "}"


RULES = (
    sequence_fits_the_model,
    vocabulary_fits_the_model,
    mix_names_phases_and_sources,
)
