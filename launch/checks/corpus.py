"""The tokens: there, whole, of one tokenizer, enough for every phase, and some held out. Prepares nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from time import monotonic

from data_pipelines.base.errors import ConfigError
from data_pipelines.batches.loader import vocabulary_problems
from data_pipelines.batches.record import FILE_NAME, read_data_record
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.corpora.preparation import is_prepared, open_prepared
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.plan.plan import Plan
from data_pipelines.shards.manifest import DataError
from data_pipelines.shards.reader import OpenData
from data_pipelines.shards.source import TokenSource
from launch.checks.base import Finding, Subject, fail, failures, ok, warning
from launch.checks.storage import probe_folder
from train.checkpoint.commits import committed_steps
from train.loop.data import held_out, plan_of_run

SAMPLE_SECONDS = 3.0
"""For reading tokens; `python -m data_pipelines.verify` reads all of them."""
MANY_EPOCHS = 4
"""Up to four passes are worth nearly as much as new text. Source: Muennighoff et al. 2023, arXiv:2305.16264."""


def data(subject: Subject) -> Iterator[Finding]:
    """Everything that a start does with its data before the first step, without writing."""
    section = subject.run.data
    if isinstance(section, CorpusOptions) and not (yield from _is_prepared(subject, section)):
        return
    if isinstance(section, ShardsData) and (missing := list(_not_named(section))):
        yield from missing
        return
    try:
        opened = open_prepared(section)
    except (ValueError, OSError) as error:
        yield from failures(error, "correct data.sources or data.tokenizer, or prepare the data again")
        return
    sources = opened.train
    tokens = sum(source.num_tokens for source in sources.values())
    yield ok(f"{len(sources)} sources of {tokens:,} tokens, every file of its manifest's size")
    yield from failures(vocabulary_problems(sources, subject.run.model.vocab_size))
    yield from _sample(sources, subject.run.training.seq_len)
    yield from _budget(subject, sources)
    yield from _held_out(subject, opened)


def _not_named(section: ShardsData) -> Iterator[Finding]:
    """Settings that the data section must have and nobody can guess."""
    example = "data.sources.web.train=s3://bucket/web"
    if not section.sources:
        yield fail("data.sources is empty: no tokens to train on", f"name the shards: {example}")
    if not section.tokenizer:
        yield fail(
            "data.tokenizer is empty", "name the folder of the tokenizer that made the shards: data.tokenizer=DIR"
        )


def _is_prepared(subject: Subject, section: CorpusOptions) -> Generator[Finding, None, bool]:
    """Returns whether it is; where not, whether it can be."""
    try:
        if is_prepared(section):
            return True
        documents = section.corpus()
        with probe_folder(Path(section.dir)):
            pass
    except (ValueError, OSError) as error:
        yield from failures(error, f"correct the data section, or choose another folder: data.dir (is {section.dir})")
        return False
    what = f"{', '.join(documents)}: not prepared yet in {section.dir}, so budgets are not known"
    if subject.cluster is None:
        yield ok(f"{what}; the start does it")
    else:
        yield warning(
            f"{what}; {subject.run.world_size:,} ranks would wait for one that does it",
            "before: python -m data_pipelines.prepare, with the same data settings",
        )
    return False


def _sample(sources: Mapping[str, TokenSource], seq_len: int) -> Iterator[Finding]:
    """The first and the last window of each source, against the hashes of the manifest, as long as time allows."""
    deadline, read = monotonic() + SAMPLE_SECONDS, 0
    for source in sources.values():
        if not source.num_windows(seq_len) or monotonic() > deadline:
            continue
        try:
            for index in (0, source.num_windows(seq_len) - 1):
                source.window(index, seq_len)
            read += 1
        except DataError as error:
            yield from failures(error)
    if read < len(sources):
        yield warning(
            f"tokens of {read} of {len(sources)} sources were read and are what was written",
            "python -m data_pipelines.verify URI reads every byte",
        )
    else:
        yield ok("first and last tokens of every source are what was written")


def _budget(subject: Subject, sources: Mapping[str, TokenSource]) -> Iterator[Finding]:
    run = subject.run
    try:
        plan = plan_of_run(run, sources)
    except ValueError as error:
        yield from failures(error, "change data.mix, data.max_epochs or schedule.phases")
        return
    passes = _passes(plan)
    words = "passes over the run: " + ", ".join(f"{name} {count:.2f}" for name, count in passes.items())
    if run.data.max_epochs is None and max(passes.values()) > MANY_EPOCHS:
        yield warning(
            f"{words}; more than {MANY_EPOCHS} are worth ever less, and there is no limit",
            "more text, other weights in data.mix, or data.max_epochs to be told",
        )
    else:
        yield ok(words)
    yield from _same_plan(subject, plan)


def _passes(plan: Plan) -> dict[str, float]:
    """Source -> how often the whole run reads it."""
    used = [sum(counts) for counts in zip(*(phase.counts for phase in plan.phases), strict=True)]
    return {
        source.name: windows / source.num_windows
        for source, windows in zip(plan.sources, used, strict=True)
        if source.num_windows
    }


def _same_plan(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """A checkpoint goes on with the plan that it was trained on."""
    run_dir = subject.run.run_dir
    if not committed_steps(subject.run.checkpoint_dir) or not (run_dir / FILE_NAME).is_file():
        return
    try:
        recorded = read_data_record(run_dir).hash
    except DataError as error:
        yield warning(str(error).partition("; ")[0], "starting the run writes it again")
        return
    if recorded != plan.hash:
        yield fail(
            f"{run_dir} was trained on data plan {recorded[:12]}, this start has {plan.hash[:12]}: corpus, data.mix, "
            "schedule.phases, training.seq_len or debug.seed differ",
            "restore them, or choose another run.dir",
        )


def _held_out(subject: Subject, opened: OpenData) -> Iterator[Finding]:
    run = subject.run
    without = sorted(opened.train.keys() - opened.held_out.keys())
    if not run.validation.windows:
        yield ok("validation is off: validation.windows=0")
    elif not opened.held_out:
        yield warning(
            "no source has held-out shards: there is no validation loss",
            "name some, data.sources.web.held_out=URI, or set validation.windows=0",
        )
    else:
        try:
            for windows in held_out(run, opened.held_out).values():
                windows.read([0])
        except (DataError, ConfigError) as error:
            yield from failures(error)
        else:
            missing = f", none of {', '.join(without)}" if without else ""
            yield ok(f"held-out tokens of {len(opened.held_out)} sources can be read{missing}")


CHECKS = (data,)
