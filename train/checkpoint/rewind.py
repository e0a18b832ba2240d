"""Going back to an earlier checkpoint of a run: what came after it is set aside, not deleted.

    <run>/rewound-1/   checkpoints after the step, metrics.jsonl as it was, rewind.json

The same command may be started again, by a scheduler for instance: a rewind that was done is not done twice.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import write_whole
from train.checkpoint.commits import committed_steps

MARK = "rewind.json"


def rewind(run_dir: Path, checkpoints: Path, step: int) -> str | None:
    """Makes `step` the last checkpoint of the run; returns what was done in words, or None where it was done before.

    Raises ConfigError where there is no complete checkpoint of `step`.
    """
    steps = committed_steps(checkpoints)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise ConfigError(
            [f"checkpoint.load_step={step}: {checkpoints} has no complete checkpoint of it; there: {there}"]
        )
    earlier = sorted(run_dir.glob("rewound-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    if earlier and json.loads((earlier[-1] / MARK).read_text(encoding="utf-8"))["step"] == step:
        return None
    if steps[-1] == step:
        return None
    aside = run_dir / f"rewound-{len(earlier) + 1}"
    aside.mkdir()
    write_whole(aside / MARK, json.dumps({"step": step, "last_step": steps[-1]}))
    if (run_dir / "metrics.jsonl").is_file():
        shutil.copy2(run_dir / "metrics.jsonl", aside)  # the run cuts its own at the step that it goes on from
    for later in (other for other in steps if other > step):
        os.rename(checkpoints / f"step-{later}", aside / f"step-{later}")
    for link in checkpoints.glob("phase-*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    return f"rewound to step {step}; what came after it is in {aside}"
