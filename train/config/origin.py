"""Where the first start of a run gets its weights from, compared with the run: `checkpoint.initial_load_path`.

Only the first start reads it; by the next it may be gone.
"""

from __future__ import annotations

from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.corpora.preparation import find_tokenizer
from train.checkpoint.commits import committed_steps
from train.checkpoint.initial import check_initial, positions_of
from train.checkpoint.tokenizer import check_origin_tokenizer
from train.config.run import Run


def check_origin(run: Run) -> str | None:
    """What can be known before data are prepared; reads no weight. Returns what a person should know of it, or None.

    Raises ConfigError with what keeps the run from starting there.
    """
    origin = origin_of(run)
    if origin is None:
        return None
    if run.checkpoint.initial_load_in_hf:
        raise ConfigError(["checkpoint.initial_load_in_hf: must be false; the folder shows what it holds"])
    check_initial(origin, run.model)
    try:
        tokenizer = find_tokenizer(run.data)
    except (ValueError, OSError):  # there is none yet, or what is wrong with the data is said when they are opened
        return f"checkpoint.initial_load_path={origin}: its tokenizer is compared when the data have been prepared"
    return compare_tokenizers(run, tokenizer)


def compare_tokenizers(run: Run, tokenizer: Path) -> str | None:
    """The same for the tokenizer of the data alone."""
    origin = origin_of(run)
    return None if origin is None or run.data.tokenizer_may_differ else check_origin_tokenizer(origin, tokenizer)


def max_positions(run: Run) -> int:
    """The longest sequence that the weights of a run are meant for: its own, or that of the weights it started from.

    A checkpoint has the number, so that it stays when the origin is gone.
    """
    steps = committed_steps(run.checkpoint_dir)
    before = run.checkpoint_dir / f"step-{steps[-1]}" if steps else origin_of(run)
    return max(run.timeline.seq_len, positions_of(before))


def origin_of(run: Run) -> Path | None:
    """None for a run that starts from nothing, or that goes on from a checkpoint of its own."""
    path = run.checkpoint.initial_load_path
    return Path(path) if path and not committed_steps(run.checkpoint_dir) else None
