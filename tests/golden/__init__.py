"""The recipes of configs/experiment/ in full, as text under review: a changed recipe shows as a diff.

    python -m tests.golden            which files differ, and how
    python -m tests.golden --write    rewrites them; read `git diff tests/golden` before you commit it

Each <experiment>.txt holds every setting, defaults included, sorted; what `python -m train --check` prints; and which
optimizer updates which parameters, with what. scripts/*.sbatch are what python -m launch.submit queues. Nothing in them
depends on the machine.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from torchtitan.distributed.utils import set_spmd_backend

from data_pipelines.base.command import CONFIGS
from data_pipelines.settings.compose import compose
from launch.slurm.options import job_options
from launch.slurm.script import Places, batch_script
from train.afmoe.decoder import Afmoe
from train.afmoe.spec import afmoe_config
from train.config.check import check
from train.config.rules.numbers import leaves
from train.config.run import Run
from train.config.summary import summary
from train.optim.config import OPTIMIZERS
from train.optim.groups import Optimizers, optimizers_config
from train.optim.manifest import table

FOLDER = Path(__file__).parent
COMMAND = "python -m tests.golden --write"
SCRIPTS = {
    "trinity_large": [
        "experiment=trinity_large_h100",
        "cluster=h100_256nodes",
        "cluster.partition=hopper",
        "cluster.account=llm",
        "cluster.interface=ib0",
    ],
    "trinity_nano": [
        "experiment=trinity_nano_1node",
        "cluster=h100_1node",
    ],
    "trinity_nano_pyxis": ["experiment=trinity_nano", "cluster=h100_pyxis"],
    "trinity_nano_apptainer": [
        "experiment=trinity_nano",
        "cluster=h100_pyxis",
        "cluster.container.engine=apptainer",
        "cluster.container.image=/images/trinity.sif",
        "cluster.modules=[apptainer/1.4]",
    ],
    "smoke_torchrun_chain": ["experiment=smoke", "cluster=cpu_2nodes", "cluster.launcher=torchrun"],
}
"""Batch script -> overrides that it is rendered for; the last one for a job of a chain."""


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def golden_file(experiment: str) -> Path:
    return FOLDER / f"{experiment}.txt"


def golden_texts() -> dict[Path, Callable[[], str]]:
    """Golden file -> what makes its text as configured now."""
    recipes = {golden_file(experiment): partial(resolved, experiment) for experiment in experiments()}
    return recipes | {script_file(name): partial(rendered, name) for name in SCRIPTS}


def script_file(name: str) -> Path:
    return FOLDER / "scripts" / f"{name}.sbatch"


def rendered(name: str) -> str:
    """The text of a batch script, for a person whose home is /home/me."""
    overrides, is_chained = SCRIPTS[name], name.endswith("_chain")
    run = check(compose(overrides))
    assert run.cluster is not None
    run_dir = Path("/home/me/trinity") / run.run_dir
    places = Places(
        run_dir=run_dir,
        code=run_dir / "code/0123456789ab",
        workdir=Path("/home/me/trinity"),
        venv=Path("/home/me/trinity/.venv"),
    )
    options = job_options(run, run.cluster, log=places.log, is_chained=is_chained)
    words = ["python", "-m", "launch.submit", *overrides, *(["--chain", "20"] if is_chained else [])]
    return batch_script(
        run,
        run.cluster,
        options=options,
        overrides=overrides,
        command=shlex.join(words),
        places=places,
        is_chained=is_chained,
    )


def resolved(experiment: str, *overrides: str) -> str:
    """The text of a golden file. Allocates no weight: the model is on the meta device."""
    run = check(compose([f"experiment={experiment}", *overrides]))
    parts = {"settings": _settings(run), "summary": summary(run).splitlines(), "optimizers": _optimizers(run)}
    return "\n\n".join("\n".join([f"# {title}", *lines]) for title, lines in parts.items()) + "\n"


def difference(path: Path, text: str) -> str:
    """A unified diff from the golden file to `text`; empty where they are equal."""
    stored = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = (stored.splitlines(), text.splitlines())
    name = f"tests/golden/{path.relative_to(FOLDER)}"
    return "\n".join(difflib.unified_diff(*lines, name, "as configured now", lineterm="", n=1))


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
    header, *rows = table(optimizers.rules)
    return [header, *sorted(rows), "", *sorted(groups)]


def _values(group: dict[str, object]) -> list[str]:
    """What our section sets of a group; the other entries, such as `fused`, come and go with torch."""
    ours = {field.name for options in OPTIMIZERS.values() for field in fields(options)}
    return [f"{name}={value}" for name, value in sorted(group.items()) if name in ours]


def _meta_model(run: Run) -> Afmoe:
    set_spmd_backend("partial_dtensor")
    with torch.device("meta"):
        return afmoe_config(run.model, seq_len=run.training.seq_len).build()
