"""The tokenizer of a run, kept beside its weights: <run>/tokenizer, copied when the run begins.

A corpus may change or go, and prepared again it has another tokenizer; weights keep the meaning of their ids. Each
checkpoint has the hash of its tokenizer, in the file HASH.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import whole_folder
from data_pipelines.base.rank import is_rank_0
from data_pipelines.tokenizer.encoder import TextEncoder
from train.formats.hf_write import TOKENIZER_FILES

FOLDER = "tokenizer"
HASH = "tokenizer.sha256"


def keep_tokenizer(run_dir: Path, source: Path) -> str:
    """Copies the tokenizer in `source` to the run, on rank 0 of its first start; returns the hash of tokenizer.json.

    Raises ConfigError where the run has another one.
    """
    found = TextEncoder(source, quiet=True).hash
    check_kept(run_dir, source, found)
    if not has_tokenizer(run_dir) and is_rank_0():
        with whole_folder(run_dir / FOLDER) as unfinished:
            copy_tokenizer(source, unfinished)
    return found


def check_kept(run_dir: Path, source: Path, found: str) -> None:
    """Raises ConfigError where the run has another tokenizer than that of `source`, whose hash was `found`."""
    kept = run_dir / FOLDER
    if has_tokenizer(run_dir) and (stored := TextEncoder(kept, quiet=True).hash) != found:
        raise ConfigError(
            [
                f"{kept}: the run's tokenizer has hash {stored[:12]}, that of the data in {source} has "
                f"{found[:12]}; corpus or settings have changed: restore them, or choose another run.dir"
            ]
        )


def has_tokenizer(run_dir: Path) -> bool:
    """Whether the run has kept one; versions until 87358bc did not."""
    return (run_dir / FOLDER / "tokenizer.json").is_file()


def copy_tokenizer(source: Path, folder: Path) -> None:
    """What a tokenizer consists of, and nothing else: `source` may be a published model, weights and all."""
    for file in TOKENIZER_FILES:
        if (source / file).is_file():
            shutil.copy(source / file, folder / file)


def check_hash(checkpoint: Path, tokenizer: Path) -> None:
    """Raises ConfigError where a checkpoint was trained with another tokenizer than that in `tokenizer`."""
    stored = checkpoint / HASH
    if not stored.is_file():
        return
    expected, found = stored.read_text(encoding="utf-8").strip(), TextEncoder(tokenizer, quiet=True).hash
    if found != expected:
        raise ConfigError(
            [f"{tokenizer}: has hash {found[:12]}, but {checkpoint} was trained with {expected[:12]}; restore it"]
        )
