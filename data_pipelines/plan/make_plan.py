"""Budgets, weights and sizes -> the plan of a run, and a plan that goes on from another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from data_pipelines.plan.budgets import Mix, WhenUsedUp, budgets, fraction, mix_problems
from data_pipelines.plan.plan import NEWEST, Earlier, Plan, PlanPhase, PlanSource
from data_pipelines.plan.skips import joined, skipped_before


def make_plan(
    phases: Mapping[str, int],
    *,
    sources: Sequence[PlanSource],
    mix: Mix | Literal["proportional"] | None,
    seed: int,
    seq_len: int,
    block: int,
    max_epochs: float | None = None,
    when_used_up: WhenUsedUp = "error",
    skips: Iterable[Sequence[int]] = (),
    seq_lens: Mapping[str, int] | None = None,
    after: Plan | None = None,
    algorithm: int = NEWEST,
) -> Plan:
    """Split each phase's windows over the sources by largest remainder.

    phases: name -> windows, in order. mix: phase -> source -> weight (any scale); without, each source has a share in
    proportion to its size. max_epochs: how often a source may be read over the whole run. skips: places [first, stop)
    to pass over. seq_lens: phase -> target tokens of its windows, where that is not seq_len. after: what a run has
    trained already, from `cut_at`: its windows count towards the budgets, and the rest follows it. algorithm: of a
    plan that a run was begun with.
    Raises ValueError for names that do not exist, for weights that are no weights, and where sources run out.
    """
    sources = sorted(sources, key=lambda source: source.name)
    names = [source.name for source in sources]
    if mix is None or mix == "proportional":
        if not any(source.num_windows for source in sources):
            raise ValueError(
                f"every source is shorter than one window of seq_len={seq_len} tokens; add text, or lower "
                "training.seq_len"
            )
        mix = {phase: {source.name: source.num_windows for source in sources} for phase in phases}
    if problems := mix_problems(mix, list(phases), names):
        raise ValueError("; ".join(problems))
    for source in sources:
        if source.num_windows < 1 and any(mix[phase].get(source.name) for phase in phases):
            raise ValueError(f"source {source.name!r} is shorter than one window of seq_len={seq_len} tokens")
    seq_lens = {phase: length for phase, length in (seq_lens or {}).items() if length != seq_len}
    sources = _with_lengths(sources, seq_len, seq_lens)
    after = replace(after, phases=_renumbered(after, names), sources=tuple(sources)) if after else None
    before = after.phases if after else ()
    rest = _rest(phases, before)
    rows = budgets(
        rest,
        {phase: [fraction(mix[phase].get(name, 0)) for name in names] for phase in rest},
        sources=sources,
        used=after.used_up if after else [0] * len(names),
        max_epochs=max_epochs,
        when_used_up=when_used_up,
        seq_len=seq_len,
    )
    later = [PlanPhase(name=name, counts=counts, seq_len=seq_lens.get(name)) for name, counts in rows.items()]
    plan = Plan(
        seed=seed, seq_len=seq_len, block=block, sources=tuple(sources), phases=(*before, *later), algorithm=algorithm
    )
    return replace(plan, skips=joined(skips, plan.num_windows))


def _with_lengths(sources: Sequence[PlanSource], seq_len: int, seq_lens: Mapping[str, int]) -> list[PlanSource]:
    """num_tokens is part of a plan only where lengths differ. Raises ValueError for lengths that do not divide."""
    longest = max(seq_len, *seq_lens.values()) if seq_lens else seq_len
    for phase, length in {"training": seq_len, **seq_lens}.items():
        if longest % length:
            raise ValueError(
                f"seq_len={length} of {phase!r} does not divide {longest}, the longest of this run: windows could not "
                f"be cut out of its blocks; choose a divisor of {longest}"
            )
    if not seq_lens:
        return [replace(source, num_tokens=0) for source in sources]
    for source in sources:
        if source.num_windows and source.num_tokens <= longest:
            raise ValueError(
                f"source {source.name!r} has {source.num_tokens:,} tokens, less than one window of seq_len={longest}"
            )
    return list(sources)


def _renumbered(after: Plan, names: Sequence[str]) -> tuple[PlanPhase, ...]:
    """The phases of `after`, with counts in the order of `names`. Raises ValueError for a source that is gone."""
    old = [source.name for source in after.sources]
    gone = {name for phase in after.phases for name, count in zip(old, phase.counts, strict=True) if count} - {*names}
    if gone:
        raise ValueError(
            f"source {min(gone)!r} was trained on, and is not among the sources any more; keep it, with weight 0"
        )
    counts = [dict(zip(old, phase.counts, strict=True)) for phase in after.phases]
    return tuple(
        replace(phase, counts=tuple(of_phase.get(name, 0) for name in names))
        for phase, of_phase in zip(after.phases, counts, strict=True)
    )


def _rest(phases: Mapping[str, int], before: Sequence[PlanPhase]) -> dict[str, int]:
    """Phase -> windows that are still to be served. Raises ValueError where phases that are over would change."""
    done: dict[str, int] = {}
    for phase in before:
        done[phase.name] = done.get(phase.name, 0) + phase.num_windows
    order = list(phases)
    if list(done) != order[: len(done)]:
        raise ValueError(f"the run has trained {', '.join(done)} so far; schedule.phases must begin with these")
    for name, count in done.items():
        is_last = name == list(done)[-1]
        if phases[name] < count or (not is_last and phases[name] != count):
            raise ValueError(
                f"phase {name!r} has trained {count:,} windows already, and would have {phases[name]:,}; a phase that "
                "is over keeps its budget"
            )
    return {name: total - done.get(name, 0) for name, total in phases.items() if total > done.get(name, 0)}


def cut_at(plan: Plan, g: int) -> Plan:
    """The first g windows of a plan, for `make_plan(after=)`."""
    place, kept = plan.place(g - 1) + 1 if g else 0, []
    for phase in plan.phases:
        if place <= 0:
            break
        kept.append(phase if place >= phase.num_windows else replace(phase, cut=place))
        place -= phase.num_windows
    return replace(plan, phases=tuple(kept), skips=())


def shared_windows(old: Plan, new: Plan) -> int:
    """How many of their first windows two plans have in common: 0 where they differ in what all windows hang on."""
    if any(getattr(old, field) != getattr(new, field) for field in ("seed", "seq_len", "block", "algorithm")):
        return 0
    places = 0
    for p, (one, other) in enumerate(zip(old.phases, new.phases, strict=False)):
        if _meaning(old, p) != _meaning(new, p):
            break
        places += min(one.num_windows, other.num_windows)
        if one.num_windows != other.num_windows or one.cut != other.cut:
            break
    places = min([places, *(first for first, _ in {*old.skips} ^ {*new.skips})])
    return places - skipped_before(old.skips, places)


def _meaning(plan: Plan, p: int) -> object:
    """All that the order of a phase hangs on, but for what came before it."""
    phase = plan.phases[p]
    counts = {source: count for source, count in zip(plan.sources, phase.counts, strict=True) if count}
    return phase.name, counts, plan.seq_len_of(p), max(plan.seq_len_of(q) for q in range(len(plan.phases)))


def continued(old: Plan, new: Plan) -> Plan:
    """`new`, which says of itself up to which window it is `old`, and what that was."""
    if replace(old, continues=()) == new:  # what came before is no part of the order: a restart edits nothing
        return old
    shared = shared_windows(old, new)
    earlier = [replace(one, num_windows=min(one.num_windows, shared)) for one in old.continues]
    known = [Earlier(hash=old.hash, num_windows=shared), *earlier]
    return replace(new, continues=tuple(one for one in known if one.num_windows))
