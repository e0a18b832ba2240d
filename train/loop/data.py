"""What the trainer reads: the plan of a run, its held-out windows and its tokenizer, from prepared data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from torchtitan.components.tokenizer import BaseTokenizer

from data_pipelines.base.errors import ConfigError
from data_pipelines.batches.held_out import HeldOutWindows
from data_pipelines.batches.record import DataRecord, differences, read_data_record
from data_pipelines.corpora.kinds import AnyData
from data_pipelines.plan.budgets import fraction, largest_remainder
from data_pipelines.plan.make_plan import continued, cut_at, make_plan, shared_windows
from data_pipelines.plan.plan import NEWEST, Plan, PlanSource
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.prepared import Prepared
from data_pipelines.shards.source import TokenSource
from data_pipelines.tokenizer.encoder import TextEncoder
from train.afmoe.config import ModelConfig
from train.checkpoint.commits import newest_step
from train.config.run import Run
from train.config.rundir import has_results
from train.schedule.timeline import Timeline


def plan_of_run(run: Run, sources: Mapping[str, TokenSource]) -> Plan:
    """The plan of a run: a new one, or one that goes on from what the run has recorded of its data.

    A plan that differs behind the trained windows only, in what it skips, goes on by itself; one whose mix differs from
    now on does where data.edit=append says so. What else differs is refused later (check_same_text).
    """
    build = partial(build_plan, run.data, sources, run.timeline, seed=run.seed)
    if not has_results(run.run_dir):
        return build()
    try:
        record = read_data_record(run.run_dir)
    except DataError:  # of a version that recorded none
        return build(order=Order(1, run.schedule.batch[0].sequences))
    old, trained = record.plan, trained_windows(run, record)
    build = partial(build, order=Order(old.algorithm, old.block))
    plan = build()
    cuts = [p for p, phase in enumerate(old.phases) if phase.cut is not None]
    if cuts:  # edits that were made before are history
        past = replace(old, phases=old.phases[: cuts[-1] + 1], skips=())
        plan = build(after=past)
    if shared_windows(old, plan) < trained and run.data.edit == "append":
        plan = build(after=cut_at(old, trained))
    return continued(old, plan)


def trained_windows(run: Run, record: DataRecord) -> int:
    """Windows up to the checkpoint that a run goes on from."""
    step = newest_step(run.checkpoint_dir)
    return record.ramp.windows(step).stop if step else 0


class Order(NamedTuple):
    """How the windows of a plan are put in order; see Plan."""

    algorithm: int
    block: int


def build_plan(
    data: AnyData,
    sources: Mapping[str, TokenSource],
    timeline: Timeline,
    *,
    seed: int,
    after: Plan | None = None,
    order: Order | None = None,
) -> Plan:
    """Budgets from the timeline, weights from the data section, sizes from the shards.

    after: what comes first. order: that of the plan that the run was begun with; None for a new one.
    """
    order = order or Order(NEWEST, timeline.quantum)
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
        block=order.block,
        algorithm=order.algorithm,
        max_epochs=data.max_epochs,
        when_used_up=data.when_used_up,
        skips=data.skip,
        after=after,
    )


def redistribution_notes(data: AnyData, plan: Plan) -> list[str]:
    """What data.when_used_up=redistribute has moved, a line a phase."""
    if data.max_epochs is None or data.when_used_up == "error" or not isinstance(data.mix, dict):
        return []
    notes = []
    for phase in plan.phases:
        weights = [fraction(data.mix[phase.name].get(source.name, 0)) for source in plan.sources]
        wished = largest_remainder(sum(phase.counts), weights)
        moved = [
            f"{source.name} {got:,} windows instead of {wish:,}"
            for source, got, wish in zip(plan.sources, phase.counts, wished, strict=True)
            if got != wish
        ]
        if moved:
            notes.append(f"phase {phase.name}: data.max_epochs={data.max_epochs:g} gives {', '.join(moved)}")
    return notes


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
        return [int(token_id) for token_id in token_ids]

    def decode(self, token_ids: list[int]) -> str:
        return self._encoder.decode(token_ids)

    def get_vocab_size(self) -> int:
        return self._encoder.vocab_size


def check_same_text(run: Run, plan: Plan, held_out: Mapping[str, str]) -> None:
    """Raises ConfigError where a run has read other text, in its first steps, than it would read from now on.

    A corpus whose files changed is prepared anew under the same settings. held_out: source -> hash of its tokens.
    """
    run_dir = run.run_dir
    if not has_results(run_dir):
        return
    try:
        record = read_data_record(run_dir)
    except DataError:  # none: a checkpoint has the hash of its plan, too
        return
    remedy = "the corpus has changed since the run began: restore it, or choose another run.dir"
    if problems := differences(record, plan, held_out, num_windows=trained_windows(run, record)):
        raise ConfigError([f"{run_dir}: {problem}; {remedy}" for problem in problems])
