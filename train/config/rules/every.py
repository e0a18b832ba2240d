"""Every rule across sections. A rule is a small function that returns what is wrong, or None.

Its parameters are named after the sections that it needs (`settings`: all of them as plain containers), so it is asked
only where these are valid. A new rule goes into the RULES of its file.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from train.config.rules import cluster, data, machine, mesh, run

RULES: tuple[Callable[..., str | None], ...] = (
    *run.RULES,
    *mesh.RULES,
    *cluster.RULES,
    *data.RULES,
    *machine.RULES,
)


def broken_rules(sections: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The messages of all rules that do not hold. A rule whose sections did not validate is left out."""
    known = sections | {"settings": settings}
    wanted = [(rule, list(signature(rule).parameters)) for rule in RULES]
    messages = [rule(*(known[name] for name in names)) for rule, names in wanted if known.keys() >= set(names)]
    return [message for message in messages if message is not None]
