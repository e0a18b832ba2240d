"""The tokenizer against the model's rows, the run's own copy, and the weights that the run starts at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.corpora.preparation import find_tokenizer, is_prepared
from data_pipelines.tokenizer.encoder import TextEncoder
from launch.checks.base import Finding, Subject, fail, failures, ok, warning
from train.checkpoint.commits import committed_steps
from train.checkpoint.tokenizer import tokenizer_hash
from train.config.origin import compare_tokenizers
from train.config.run import Run

FEW_IDS = 0.5
"""Share of the model's rows: with fewer ids, head and embedding are mostly idle, which nobody wants."""


def tokenizer(subject: Subject) -> Iterator[Finding]:
    section = subject.run.data
    if not section.tokenizer and not _can_be_found(section):
        return  # corpus.py says what is missing, or that it is still to be trained
    try:
        folder = find_tokenizer(section)
        encoder = TextEncoder(folder, quiet=True)
    except (ValueError, OSError) as error:
        yield from failures(error, "correct data.tokenizer: the folder that holds tokenizer.json")
        return
    yield _rows(folder, encoder.vocab_size, subject.run.model.vocab_size)
    if committed_steps(subject.run.checkpoint_dir):
        try:
            tokenizer_hash(subject.run.run_dir, subject.run.checkpoint_dir, folder)
        except ConfigError as error:
            yield from failures(error)
    elif subject.run.checkpoint.initial_load_path:
        yield from _of_initial_weights(subject.run, folder)


def _can_be_found(section: object) -> bool:
    try:
        return isinstance(section, CorpusOptions) and is_prepared(section)
    except (ValueError, OSError):
        return False


def _rows(folder: Path, ids: int, rows: int) -> Finding:
    what = f"{folder}: {ids:,} ids for model.vocab_size={rows:,} rows"
    if ids > rows:
        return fail(what, f"raise model.vocab_size to {-(-ids // 64) * 64:,} or more, or use the model's tokenizer")
    if ids < FEW_IDS * rows:
        return warning(f"{what}, most of which would never be used", "lower model.vocab_size, or check data.tokenizer")
    return ok(what)


def _of_initial_weights(run: Run, folder: Path) -> Iterator[Finding]:
    """Ids of another tokenizer mean other texts to the weights."""
    try:
        note = compare_tokenizers(run, folder)
    except ConfigError as error:
        yield from failures(error)
        return
    if note:
        yield warning(note, "make sure that the data were tokenised with the tokenizer of the weights")


CHECKS = (tokenizer,)
