"""The tokenizer of a run, kept beside its weights: <run>/tokenizer, copied when the first step begins.

A corpus may change or go, and prepared again it has another tokenizer; weights keep the meaning of their ids. Each
checkpoint has the hash of its tokenizer, in the file HASH: that is what binds, so a start that failed before its first
checkpoint can be corrected.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import whole_folder
from data_pipelines.tokenizer.file import NAME, file_hash, same_tokenizer
from train.checkpoint.commits import committed_steps, is_checkpoint
from train.formats.hf_write import TOKENIZER_FILES

FOLDER = "tokenizer"
HASH = "tokenizer.sha256"


def tokenizer_hash(run_dir: Path, checkpoints: Path, source: Path) -> str:
    """The hash that the run's checkpoints get: that of the last one, or of the tokenizer in `source` if it has none.

    Raises ConfigError where the checkpoints have another tokenizer than `source`; writes nothing.
    """
    found, bound = file_hash(source), _bound_hash(checkpoints)
    if bound in (None, found):
        return found
    kept = run_dir / FOLDER
    if has_tokenizer(kept) and file_hash(kept) == bound and same_tokenizer(kept, source):
        return bound
    raise ConfigError(
        [
            f"{kept}: the run's tokenizer has hash {bound[:12]}, that of the data in {source} has {found[:12]}; corpus "
            "or settings have changed: restore them, or choose another run.dir"
        ]
    )


def keep_tokenizer(run_dir: Path, checkpoints: Path, source: Path) -> str | None:
    """Makes <run>/tokenizer the one that `tokenizer_hash` has accepted, unless it is that already.

    For rank 0, once the data in front of it are known to be those of the checkpoint that the run goes on from. Returns
    what a person should know of a run whose checkpoints do not say which tokenizer they had. Raises OSError.
    """
    kept = run_dir / FOLDER
    if has_tokenizer(kept) and file_hash(kept) == tokenizer_hash(run_dir, checkpoints, source):
        return None
    with whole_folder(kept) as unfinished:
        copy_tokenizer(source, unfinished)
    if not committed_steps(checkpoints) or _bound_hash(checkpoints):
        return None
    return (
        f"{kept}: checkpoints of this run do not say which tokenizer they had; the one of its data, in {source}, hash "
        f"{file_hash(source)[:12]}, is the run's from now on"
    )


def has_tokenizer(folder: Path) -> bool:
    return (folder / NAME).is_file()


def copy_tokenizer(source: Path, folder: Path) -> None:
    """What a tokenizer consists of, and nothing else: `source` may be a published model, weights and all."""
    for file in TOKENIZER_FILES:
        if (source / file).is_file():
            shutil.copy(source / file, folder / file)


def check_hash(checkpoint: Path, tokenizer: Path) -> None:
    """Raises ConfigError where a checkpoint was trained with another tokenizer than that in `tokenizer`."""
    expected, found = stored_hash(checkpoint), file_hash(tokenizer)
    if expected not in (None, found):
        raise ConfigError(
            [f"{tokenizer}: has hash {found[:12]}, but {checkpoint} was trained with {expected[:12]}; restore it"]
        )


def check_origin_tokenizer(origin: Path, source: Path) -> str | None:
    """Compares the tokenizer that the weights in `origin` were trained with and that of the data, in `source`.

    origin: a Hugging Face folder or a checkpoint. Returns a line that says so where `origin` does not tell. Raises
    ConfigError for another one, or where a file cannot be read.
    """
    named = f"checkpoint.initial_load_path={origin}"
    try:
        theirs, stored, found = _tokenizer_of(origin.resolve()), stored_hash(origin), file_hash(source)
        if theirs is not None:
            place, expected, use = theirs / NAME, file_hash(theirs), f"data.tokenizer={theirs}"
            is_same = same_tokenizer(theirs, source)
        elif stored is not None:
            place, expected, use, is_same = origin / HASH, stored, "that tokenizer", stored == found
        else:
            return f"{named}: has no {NAME}, so its tokenizer could not be compared with that of the data in {source}"
    except (ValueError, OSError) as error:
        raise ConfigError([f"{named}: tokenizers cannot be compared: {error}"]) from error
    if is_same:
        return None
    raise ConfigError(
        [
            f"{named}: its weights were trained with the tokenizer {place} (hash {expected[:12]}), the data are of "
            f"{source / NAME} (hash {found[:12]}), in which the same ids mean other texts; make the data with "
            f"{use}, or allow it with data.tokenizer_may_differ=true"
        ]
    )


def stored_hash(checkpoint: Path) -> str | None:
    """Of the tokenizer that a checkpoint was trained with; versions until 87358bc stored none."""
    file = checkpoint / HASH
    return (file.read_text(encoding="utf-8").strip() or None) if file.is_file() else None


def _bound_hash(checkpoints: Path) -> str | None:
    """Of the last checkpoint: the one that the run goes on from."""
    steps = committed_steps(checkpoints)
    return stored_hash(checkpoints / f"step-{steps[-1]}") if steps else None


def _tokenizer_of(origin: Path) -> Path | None:
    """The folder with the tokenizer of the weights in `origin`: beside them, or in the run that they are of."""
    if has_tokenizer(origin):
        return origin
    of_run = origin.parent.parent / FOLDER  # <run>/checkpoint/step-N
    if not is_checkpoint(origin) or not has_tokenizer(of_run):
        return None
    return of_run if stored_hash(origin) in (None, file_hash(of_run)) else None
