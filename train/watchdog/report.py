"""Who holds a run up, from what its ranks said last. Pure.

All ranks run the same program and wait for each other in its collectives. A rank that has stopped says nothing more;
one that is busy elsewhere still speaks, and has entered fewer collectives than those that wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from data_pipelines.base.command import aligned

NAMED = 8
"""Ranks that a message names at most."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a rank said of itself."""

    rank: int
    host: str
    process: int
    """Its number on that host."""
    stacks: int
    """Its descriptor of the file that it writes its stacks into."""
    beat: int
    """How many times it has spoken."""
    step: int
    activity: str
    seconds: float
    """In this activity."""
    collectives: int
    """Entered so far, in all process groups together."""


def as_json(said: Said) -> str:
    return json.dumps(asdict(said))


def from_json(text: str) -> Said:
    return Said(**json.loads(text))


def silent_ranks(before: Mapping[int, Said], after: Mapping[int, Said], num_ranks: int) -> list[int]:
    """Those that have said nothing between two readings, or never did."""
    return [
        rank
        for rank in range(num_ranks)
        if rank not in after or (rank in before and before[rank].beat == after[rank].beat)
    ]


def suspects(said: Mapping[int, Said], silent: Sequence[int]) -> list[int]:
    """The ranks that the others wait for; none where all that speak have come equally far."""
    if silent:
        return list(silent)
    progress = {rank: (one.step, one.collectives) for rank, one in said.items()}
    first, last = min(progress.values(), default=None), max(progress.values(), default=None)
    return [rank for rank, reached in progress.items() if reached == first] if first != last else []


def verdict(said: Mapping[int, Said], silent: Sequence[int]) -> str:
    """In one sentence: which ranks, where they run, what is known of them."""
    found = suspects(said, silent)
    if not found:
        return "all ranks wait in the same place; look at the network and at the stacks"
    named = "; ".join(_describe(rank, said.get(rank), is_silent=rank in silent) for rank in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return named + more


def table(said: Mapping[int, Said], silent: Sequence[int]) -> str:
    """A line a rank."""
    lines = [["rank", "host", "process", "step", "doing", "for s", "collectives", ""]]
    for rank, one in sorted(said.items()):
        figures = [rank, one.host, one.process, one.step, one.activity, f"{one.seconds:.0f}", one.collectives]
        lines.append([*map(str, figures), "silent" if rank in silent else ""])
    return "\n".join(aligned(lines))


def _describe(rank: int, one: Said | None, *, is_silent: bool) -> str:
    if one is None:
        return f"rank {rank} has never said anything"
    where = f"rank {rank} on {one.host} (process {one.process})"
    if is_silent:
        return f"{where} says nothing any more: it is stopped, or hangs; its last word was {one.activity}"
    return f"{where} has come less far than the others: it is in {one.activity} for {one.seconds:.0f} s"
