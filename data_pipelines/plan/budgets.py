"""How many windows of each source each phase takes: weights and budgets -> counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Literal, TypeAlias

from data_pipelines.plan.plan import PlanSource

Mix: TypeAlias = Mapping[str, Mapping[str, float]]
"""Phase -> source -> weight, on any scale."""
WhenUsedUp: TypeAlias = Literal["error", "redistribute"]
"""What becomes of windows that a source cannot give: refused, or taken from the other sources of the phase."""


def budgets(
    phases: Mapping[str, int],
    weights: Mapping[str, Sequence[Fraction]],
    *,
    sources: Sequence[PlanSource],
    used: Sequence[int],
    max_epochs: float | None,
    when_used_up: WhenUsedUp,
    seq_len: int,
) -> dict[str, tuple[int, ...]]:
    """Phase -> windows of each source, by largest remainder.

    phases: name -> windows. used: windows of each source that are trained already. Caps hold over all phases. Raises
    ValueError with the first phase that asks a source for more than it has, or, redistributed, all of them together.
    """
    left = [_room(source, taken, max_epochs) for source, taken in zip(sources, used, strict=True)]
    rows = {}
    for phase, total in phases.items():
        counts = largest_remainder(total, weights[phase])
        if over := [k for k, count in enumerate(counts) if count > left[k]]:
            if when_used_up == "error":
                asked, k = counts[over[0]], over[0]
                reachable = int(left[k]) * total // asked * seq_len
                raise ValueError(
                    f"data.max_epochs={max_epochs}: phase {phase!r} asks for {asked:,} windows of source "
                    f"{sources[k].name!r}, which has {left[k]:,} left of {sources[k].num_windows:,} a pass; with this "
                    f"mix the phase can be at most {reachable:,} tokens. Lower its weight or budget, raise max_epochs, "
                    "or set data.when_used_up=redistribute"
                )
            counts = redistributed(total, weights[phase], left)
            if counts is None:
                most = sum(int(left[k]) for k, weight in enumerate(weights[phase]) if weight)
                raise ValueError(
                    f"data.max_epochs={max_epochs}: phase {phase!r} asks for {total * seq_len:,} tokens, and its "
                    f"sources together have {most * seq_len:,} left; lower its budget, add a source or raise max_epochs"
                )
        rows[phase] = counts
        left = [room - count for room, count in zip(left, counts, strict=True)]
    return rows


def _room(source: PlanSource, used: int, max_epochs: float | None) -> float:
    """Windows that a source may still give."""
    return float("inf") if max_epochs is None else max(0, int(source.num_windows * fraction(max_epochs)) - used)


def redistributed(total: int, weights: Sequence[Fraction], left: Sequence[float]) -> tuple[int, ...] | None:
    """What fits: sources that are used up give what they have, the others share the rest by their weights. None where
    all together have too little."""
    fixed: dict[int, int] = {}
    while True:
        rest = total - sum(fixed.values())
        others = [Fraction(0) if k in fixed else weight for k, weight in enumerate(weights)]
        if not any(others):
            return None if rest else tuple(fixed.get(k, 0) for k in range(len(weights)))
        counts = largest_remainder(rest, others)
        over = {k: int(left[k]) for k, count in enumerate(counts) if count > left[k]}
        if not over:
            return tuple(fixed.get(k, count) for k, count in enumerate(counts))
        fixed |= over


def largest_remainder(total: int, weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers that sum to `total`, each less than 1 from its exact share; ties go to the earlier entry."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return tuple(counts)


def fraction(weight: float) -> Fraction:
    """0.35 in a YAML file means 35/100, not the nearest binary number; the plan's counts hang on it."""
    return Fraction(str(weight))


def mix_problems(mix: Mix, phases: Sequence[str], sources: Sequence[str]) -> list[str]:
    """What is wrong with `data.mix`, a line each."""
    problems = [_unknown("data.mix", name, phases) for name in mix if name not in phases]
    problems += [f"data.mix.{name}: missing, every phase needs weights" for name in phases if name not in mix]
    for phase, weights in mix.items():
        path = f"data.mix.{phase}"
        problems += [_unknown(path, name, sources) for name in weights if name not in sources]
        wrong = {name: weight for name, weight in weights.items() if not 0 <= weight < float("inf")}
        problems += [f"{path}.{name}: a weight is a number >= 0, got {weight}" for name, weight in wrong.items()]
        if not any(weights.values()):
            problems.append(f"{path}: all weights are 0; give at least one source a positive weight")
    return problems


def _unknown(path: str, name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"{path}.{name}: unknown ({hint})"
