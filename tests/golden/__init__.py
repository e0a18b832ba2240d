"""The recipes of configs/experiment/ in full, as text under review: a changed recipe shows as a diff.

    python -m tests.golden            which files differ, and how
    python -m tests.golden --write    rewrites them; read `git diff tests/golden` before you commit it

Each <experiment>.txt holds every setting, defaults included, sorted; what `python -m train --check` prints; and which
optimizer updates which parameters, with what. Nothing in it depends on the machine.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from pathlib import Path

import torch
from torchtitan.distributed.utils import set_spmd_backend

from data_pipelines.base.command import CONFIGS
from data_pipelines.base.compose import compose
from train.afmoe.decoder import Afmoe
from train.afmoe.spec import afmoe_config
from train.config.check import check
from train.config.rules.numbers import leaves
from train.config.run import Run
from train.config.summary import summary
from train.optim.config import OPTIMIZERS
from train.optim.groups import Optimizers, assignment_table, optimizers_config

FOLDER = Path(__file__).parent
COMMAND = "python -m tests.golden --write"


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def golden_file(experiment: str) -> Path:
    return FOLDER / f"{experiment}.txt"


def resolved(experiment: str, *overrides: str) -> str:
    """The text of a golden file. Allocates no weight: the model is on the meta device."""
    run = check(compose([f"experiment={experiment}", *overrides]))
    parts = {"settings": _settings(run), "summary": summary(run).splitlines(), "optimizers": _optimizers(run)}
    return "\n\n".join("\n".join([f"# {title}", *lines]) for title, lines in parts.items()) + "\n"


def difference(experiment: str, text: str) -> str:
    """A unified diff from the golden file to `text`; empty where they are equal."""
    path = golden_file(experiment)
    stored = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = (stored.splitlines(), text.splitlines())
    return "\n".join(difflib.unified_diff(*lines, f"tests/golden/{path.name}", "as configured now", lineterm="", n=1))


def _settings(run: Run) -> list[str]:
    return sorted(f"{path} = {json.dumps(value)}" for path, value in leaves(run.settings))


def _optimizers(run: Run) -> list[str]:
    optimizers = optimizers_config(run.optimizer).build(model_parts=[_meta_model(run)])
    assert isinstance(optimizers, Optimizers)
    groups = [
        f"{type(optimizer).__name__} of {group['param_names'][0]} ...: " + ", ".join(_values(group))
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]
    header, *rows = assignment_table(optimizers)
    return [header, *sorted(rows), "", *sorted(groups)]


def _values(group: dict[str, object]) -> list[str]:
    """What our section sets of a group; the other entries, such as `fused`, come and go with torch."""
    ours = {field.name for options in OPTIMIZERS.values() for field in fields(options)}
    return [f"{name}={value}" for name, value in sorted(group.items()) if name in ours]


def _meta_model(run: Run) -> Afmoe:
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        return afmoe_config(run.model, seq_len=run.training.seq_len).build()
