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
from train.checkpoint.tokenizer import HASH, check_kept

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
            check_kept(subject.run.run_dir, folder, encoder.hash)
        except ConfigError as error:
            yield from failures(error)
    elif subject.run.checkpoint.initial_load_path:
        yield from _of_initial_weights(Path(subject.run.checkpoint.initial_load_path), folder, encoder.hash)


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


def _of_initial_weights(weights: Path, folder: Path, found: str) -> Iterator[Finding]:
    """Ids of another tokenizer mean other texts to the weights."""
    if (weights / HASH).is_file():
        theirs = (weights / HASH).read_text(encoding="utf-8").strip()
    elif (weights / "tokenizer.json").is_file():
        theirs = TextEncoder(weights, quiet=True).hash
    else:
        return
    if theirs != found:
        yield warning(
            f"{weights} was trained with the tokenizer {theirs[:12]}, the data have {found[:12]} ({folder})",
            "tokenise with the tokenizer of the weights; ignore this if the files differ in form only",
        )


CHECKS = (tokenizer,)
