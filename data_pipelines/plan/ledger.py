"""How many tokens of each source each phase has used, at any point of a run. Pure: the plan is the book."""

from __future__ import annotations

from typing import TypeAlias

from data_pipelines.plan.plan import Plan

Ledger: TypeAlias = dict[str, dict[str, int]]
"""Phase -> source -> target tokens."""


def ledger(plan: Plan, num_windows: int) -> Ledger:
    """Target tokens in windows 0 .. num_windows - 1; what is skipped is in none of them."""
    lengths = {phase.name: plan.seq_len_of(p) for p, phase in enumerate(plan.phases)}
    return {
        phase: {source: count * lengths[phase] for source, count in sources.items()}
        for phase, sources in plan.counts(num_windows).items()
    }


def passes(plan: Plan, num_windows: int) -> dict[str, float]:
    """Source -> how often it has been read by then."""
    used = ledger(plan, num_windows)
    return {
        source.name: sum(phase.get(source.name, 0) for phase in used.values()) / (source.num_windows * plan.seq_len)
        for source in plan.sources
        if source.num_windows
    }
