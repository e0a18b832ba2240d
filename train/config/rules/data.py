"""Rules between data, model and schedule."""

from __future__ import annotations

from torchtitan.config import TrainingConfig

from data_pipelines.corpora.kinds import AnyData
from data_pipelines.plan.plan import mix_problems
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


_MIX_REMEDY = (
    "give every phase weights of its sources, data.mix='{phase: {source: 1, other: 2}, ...}', or set data.mix=null: "
    "sources in proportion to their size"
)


def mix_names_phases_and_sources(data: AnyData, schedule: ScheduleConfig) -> str | None:
    if data.mix is None:
        return None
    phases = [phase.name for phase in schedule.phases]
    problems = mix_problems(data.mix, phases, data.source_names())
    return "; ".join([*problems, _MIX_REMEDY]) if problems else None


RULES = (
    sequence_fits_the_model,
    vocabulary_fits_the_model,
    mix_names_phases_and_sources,
)
