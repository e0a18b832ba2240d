"""What the trainer reads: the plan of a run, its held-out windows and its tokenizer, from prepared data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchtitan.components.tokenizer import BaseTokenizer

from data_pipelines.base.errors import ConfigError
from data_pipelines.batches.held_out import HeldOutWindows
from data_pipelines.batches.record import differences, read_data_record
from data_pipelines.corpora.kinds import AnyData
from data_pipelines.plan.plan import Plan, PlanSource, make_plan
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.source import TokenSource
from data_pipelines.tokenizer.encoder import TextEncoder
from train.afmoe.config import ModelConfig
from train.config.run import Run
from train.config.rundir import has_results
from train.schedule.timeline import Timeline


def build_plan(data: AnyData, sources: Mapping[str, TokenSource], timeline: Timeline, *, seed: int) -> Plan:
    """The plan of a run: budgets from its timeline, weights from its data section, sizes from the shards."""
    seq_len = timeline.seq_len
    plan_sources = [
        PlanSource(name=name, num_windows=source.num_windows(seq_len), fingerprint=source.manifest.fingerprint)
        for name, source in sources.items()
    ]
    phases = zip((phase.name for phase in timeline.schedule.phases), timeline.phase_windows, strict=True)
    return make_plan(
        dict(phases),
        sources=plan_sources,
        mix=data.mix,
        seed=seed,
        seq_len=seq_len,
        block=timeline.schedule.batch[0].sequences,
        max_epochs=data.max_epochs,
    )


def held_out(run: Run, sources: Mapping[str, TokenSource]) -> dict[str, HeldOutWindows]:
    """Source -> the windows that validation takes of it; none where validation is off."""
    if not run.validation.windows:
        return {}
    return {
        name: HeldOutWindows(
            source,
            seq_len=run.timeline.seq_len,
            num_windows=run.validation.windows,
            vocab_size=run.model.vocab_size,
            intra_document=run.data.intra_document,
        )
        for name, source in sources.items()
    }


def check_tokenizer(prepared: Prepared, model: ModelConfig) -> None:
    """Raises ConfigError where the tokenizer has more ids than the model has rows."""
    ids, rows = TextEncoder(prepared.tokenizer_dir).vocab_size, model.vocab_size
    if ids > rows:
        raise ConfigError(
            [f"model.vocab_size={rows}: the tokenizer in {prepared.tokenizer_dir} has {ids} ids; raise it"]
        )


class DataTokenizer(BaseTokenizer):
    """What the engine gets for a tokenizer: that of the data. torchtitan's own would read the file once more."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, *, tokenizer_path: str):
        super().__init__()
        self._encoder = TextEncoder(tokenizer_path, quiet=True)
        self.eos_id = self._encoder.eos_id

    def encode(self, text: str) -> list[int]:
        """A document: the end-of-text token comes last."""
        (token_ids,) = self._encoder.encode([text])
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        return self._encoder.decode(token_ids)

    def get_vocab_size(self) -> int:
        return self._encoder.vocab_size


def check_same_text(run_dir: Path, plan: Plan, held_out: Mapping[str, str]) -> None:
    """Raises ConfigError where a run has read other text, in its first steps, than it would read from now on.

    A corpus whose files changed is prepared anew under the same settings. held_out: source -> hash of its tokens.
    """
    if not has_results(run_dir):
        return
    try:
        record = read_data_record(run_dir)
    except DataError:  # none: a checkpoint has the hash of its plan, too
        return
    remedy = "the corpus has changed since the run began: restore it, or choose another run.dir"
    if problems := differences(record, plan, held_out):
        raise ConfigError([f"{run_dir}: {problem}; {remedy}" for problem in problems])
