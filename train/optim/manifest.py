"""What is done to each parameter, in writing: a table in the log, a file in the run directory, rules in checkpoints.

A pattern that takes other names, or a factor that is computed otherwise, changes a run and shows in no setting. So each
checkpoint has the rules that made its weights, and a start that would go on by others is refused. Who owns which matrix
may change from start to start; that stands in the run directory alone.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash
from pydantic import TypeAdapter
from torch.optim import Optimizer

from data_pipelines.base.command import aligned
from data_pipelines.base.errors import ConfigError
from train.optim.base import named
from train.optim.config import NAMES, OPTIMIZERS
from train.optim.muon import Muon

FILE_NAME = "optimizer.json"
MAX_DIFFERENCES = 5
"""How many parameters a message names."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is done to a parameter, on any mesh."""

    optimizer: str
    """Its name in the `optimizer` section."""
    shape: tuple[int, ...]
    """Of the whole parameter."""
    matrices: int
    """How many are updated as wholes; 0 where each entry is updated by itself."""
    rate_factor: float
    """What multiplies the learning rate."""
    weight_decay: float
    """Decoupled; times the learning rate without that factor."""

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape[-2:] if self.matrices else self.shape))
        view = f"{self.matrices} matri{'x' if self.matrices == 1 else 'ces'} of {sizes}" if self.matrices else sizes
        return f"{self.optimizer}, {view}, rate x {self.rate_factor:g}, weight decay {self.weight_decay:g}"


Rules = dict[str, Rule]
"""Name of a parameter -> its rule."""


def rules_of(optimizers: Iterable[Optimizer]) -> Rules:
    """The rules that these optimizers follow, in their order."""
    return {
        name: Rule(
            optimizer=NAMES[type(optimizer)],
            shape=tuple(param.shape),
            matrices=OPTIMIZERS[NAMES[type(optimizer)]].num_matrices(param.shape),
            rate_factor=OPTIMIZERS[NAMES[type(optimizer)]].rate_factor(param.shape),
            weight_decay=group["weight_decay"],
        )
        for optimizer in optimizers
        for group in optimizer.param_groups
        for name, param in named(group)
    }


def table(rules: Rules) -> list[str]:
    """One line for each parameter name without its layer number."""
    counts = Counter((re.sub(r"\.\d+\.", ".*.", name), rule) for name, rule in rules.items())
    rows = [("parameter", "optimizer", "shape", "rate", "decay", "count")]
    rows += [
        (
            name,
            rule.optimizer,
            "x".join(map(str, rule.shape)),
            f"x {rule.rate_factor:g}",
            f"{rule.weight_decay:g}",
            str(count),
        )
        for (name, rule), count in counts.items()
    ]
    return aligned(rows)


def rules_text(rules: Rules) -> str:
    """What a checkpoint says of its optimizers."""
    return json.dumps(_written(rules), indent=1) + "\n"


def manifest_text(rules: Rules, optimizers: Iterable[Optimizer], *, num_ranks: int) -> str:
    """The same, and who owns what on this mesh: seen from rank 0, whose grids of experts stand for the others."""
    muons = [optimizer for optimizer in optimizers if isinstance(optimizer, Muon)]
    plan = {name: owned for muon in muons for name, owned in muon.owners().items()}
    received = {name: size for muon in muons for name, size in muon.bytes_received().items()}
    mesh = {"ranks": num_ranks, "owners": plan, "mean_bytes_received_by_a_rank_in_a_step": received}
    return json.dumps(_written(rules) | mesh, indent=1) + "\n"


def check_same_rules(checkpoint: Path, rules: Rules) -> None:
    """Raises ConfigError where the weights in a checkpoint were made by other rules. Earlier versions recorded none."""
    path = checkpoint / FILE_NAME
    if not os.path.lexists(path):
        return
    try:
        stored = TypeAdapter(Rules).validate_python(json.loads(path.read_text(encoding="utf-8"))["rules"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError([f"{path} is damaged ({error}); go on from an earlier checkpoint, or restore it"]) from error
    if problems := list(differences(stored, rules)):
        more = [f"and {len(problems) - MAX_DIFFERENCES:,} more"] if len(problems) > MAX_DIFFERENCES else []
        remedy = "use the version and the settings that the run was started with, or choose another run.dir"
        raise ConfigError([f"{path}: {problem}; {remedy}" for problem in problems[:MAX_DIFFERENCES] + more])


def differences(stored: Mapping[str, Rule], own: Mapping[str, Rule]) -> Iterator[str]:
    """A line for each parameter whose rule is another."""
    for name in [*stored, *(name for name in own if name not in stored)]:
        before, now = stored.get(name), own.get(name)
        if before != now:
            yield f"{name} was under {before or 'no rule'}; now {now or 'no rule'}"


def _written(rules: Rules) -> dict[str, Any]:
    written = {name: asdict(rule) for name, rule in rules.items()}
    return {"hash": xxhash.xxh3_128_hexdigest(json.dumps(written, sort_keys=True).encode()), "rules": written}
