"""Which window of which source is global window g? A pure function of g: no state, O(1) resume at any rank count.

A window is `seq_len` target tokens; windows are numbered g = 0, 1, 2, ... over the whole run. Looking one up:

    g ─┬─ phase      by the prefix sums of the phase budgets; i = g - first window of the phase
       ├─ shuffle    i moves inside its block of `block` windows by a keyed permutation, so that the regular pattern
       │             of the next line never pins a source to one rank
       ├─ source     by a tree of two-way splits (below); gives the source and how many of its windows came before
       └─ index      that count, continued over phases, is epoch * W + position; each epoch reads the W windows of the
                     source in a fresh keyed permutation

The split. To share n windows between two sides that get a and n - a, send the first j windows left(j) = round(j*a/n)
times left. This is the line-drawing rule of Bresenham: integers only, never more than half a window from the exact
share, and window j goes left exactly if left(j + 1) > left(j), as number left(j) of that side. A binary tree of such
splits, halved by weight, gives any mix: at every prefix of a phase each source has its exact share to about one window
(hand-worked in the tests), each source count at the end of the phase is exact, and a lookup costs O(log sources).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

import xxhash

from data_pipelines.plan.prp import Permutation, derive_key

ALGORITHM = 1  # part of the hash: a change of the order is another plan, even for the same settings


class Window(NamedTuple):
    """Where one global window comes from: target tokens [index * seq_len + 1, (index + 1) * seq_len] of `source`."""

    phase: str
    source: str
    epoch: int
    index: int


@dataclass(frozen=True, kw_only=True)
class PlanSource:
    """What the plan knows about a source."""

    name: str
    num_windows: int
    fingerprint: str = ""
    """Hash of the tokens: a corpus that was tokenised again is another plan."""


@dataclass(frozen=True, kw_only=True)
class PlanPhase:
    """A phase with its budget split: counts[k] windows of sources[k]."""

    name: str
    counts: tuple[int, ...]

    @property
    def num_windows(self) -> int:
        """Windows of the phase."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of all windows of a run. `make_plan` builds one from budgets and weights."""

    seed: int
    seq_len: int
    block: int
    """Windows in a block of the shuffle; the first global batch is a good choice."""
    sources: tuple[PlanSource, ...]
    phases: tuple[PlanPhase, ...]

    @cached_property
    def hash(self) -> str:
        """32 hex digits that change with anything that changes the order or the tokens."""
        identity = json.dumps({"algorithm": ALGORITHM, **asdict(self)}, sort_keys=True)
        return xxhash.xxh3_128_hexdigest(identity.encode())

    @property
    def num_windows(self) -> int:
        """Windows of the whole run."""
        return self._edges[-1]

    def window(self, g: int) -> Window:
        """Where window g comes from, counted from 0. Raises IndexError outside of 0 .. num_windows - 1."""
        p, k, counter = self._locate(g)
        source = self.sources[k]
        epoch, position = divmod(counter, source.num_windows)
        order = _order(source.num_windows, self.seed, "epoch", source.name, epoch)
        return Window(self.phases[p].name, source.name, epoch, order(position))

    def counts(self, g: int) -> dict[str, dict[str, int]]:
        """Phase -> source -> how many of the windows 0 .. g-1 it gives.

        Exact where g is a block edge (ledger.py does the rest); inside a block, as it was before its shuffle.
        """
        if not 0 <= g <= self.num_windows:
            raise ValueError(f"the plan has {self.num_windows:,} windows, so no prefix of {g:,}")
        rows = {}
        for p, phase in enumerate(self.phases):
            taken = [0] * len(self.sources)
            _fill(self._trees[p], max(0, min(g, self._edges[p + 1]) - self._edges[p]), taken)
            rows[phase.name] = {s.name: taken[k] for k, s in enumerate(self.sources) if phase.counts[k]}
        return rows

    def block_edge(self, g: int) -> int:
        """The last edge of a shuffle block at or before window g."""
        start = self._edges[bisect_right(self._edges, g) - 1]
        return start + (g - start) // self.block * self.block

    def _locate(self, g: int) -> tuple[int, int, int]:
        """Global window -> (phase, source, windows of that source before it)."""
        if not 0 <= g < self.num_windows:
            raise IndexError(f"window {g:,} is outside of the plan's {self.num_windows:,} windows")
        p = bisect_right(self._edges, g) - 1
        j = self._shuffled(p, g - self._edges[p])
        k, rank = _descend(self._trees[p], j)
        return p, k, self._starts[p][k] + rank

    def _shuffled(self, p: int, i: int) -> int:
        block, offset = divmod(i, self.block)
        first = block * self.block
        size = min(self.block, self.phases[p].num_windows - first)
        return first + _order(size, self.seed, "block", p, block)(offset)

    @cached_property
    def _edges(self) -> tuple[int, ...]:
        """Global number of the first window of each phase, and the end."""
        return (0, *accumulate(phase.num_windows for phase in self.phases))

    @cached_property
    def _starts(self) -> list[list[int]]:
        """[phase][source]: windows of the source used up by earlier phases."""
        rows = [[0] * len(self.sources)]
        for phase in self.phases:
            rows.append([used + count for used, count in zip(rows[-1], phase.counts, strict=True)])
        return rows

    @cached_property
    def _trees(self) -> list[_Node]:
        return [_tree([(count, k) for k, count in enumerate(phase.counts) if count]) for phase in self.phases]


@lru_cache(1024)
def _order(n: int, seed: int, *purpose: str | int) -> Permutation:
    return Permutation(n, derive_key(seed, *purpose))


def make_plan(
    phases: Mapping[str, int],
    *,
    sources: Sequence[PlanSource],
    mix: Mapping[str, Mapping[str, float]] | Literal["proportional"] | None,
    seed: int,
    seq_len: int,
    block: int,
    max_epochs: float | None = None,
) -> Plan:
    """Split each phase's windows over the sources by largest remainder.

    phases: name -> windows, in order. mix: phase -> source -> weight (any scale); without, each source has a share in
    proportion to its size. max_epochs: how often a source may be read over the whole run.
    Raises ValueError for names that do not exist, for weights that are no weights, and where max_epochs runs out.
    """
    sources = sorted(sources, key=lambda source: source.name)
    if mix is None or mix == "proportional":
        if not any(source.num_windows for source in sources):
            raise ValueError(
                f"every source is shorter than one window of seq_len={seq_len} tokens; add text, or lower "
                "training.seq_len"
            )
        mix = {phase: {source.name: source.num_windows for source in sources} for phase in phases}
    if problems := mix_problems(mix, list(phases), [source.name for source in sources]):
        raise ValueError("; ".join(problems))
    for source in sources:
        if source.num_windows < 1 and any(mix[phase].get(source.name) for phase in phases):
            raise ValueError(f"source {source.name!r} is shorter than one window of seq_len={seq_len} tokens")
    rows = []
    for name, num_windows in phases.items():
        weights = [_fraction(mix[name].get(source.name, 0)) for source in sources]
        rows.append(PlanPhase(name=name, counts=largest_remainder(num_windows, weights)))
    if max_epochs is not None:
        _check_epochs(rows, sources, max_epochs, seq_len)
    return Plan(seed=seed, seq_len=seq_len, block=block, sources=tuple(sources), phases=tuple(rows))


def largest_remainder(total: int, weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers that sum to `total`, each less than 1 from its exact share; ties go to the earlier entry."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return tuple(counts)


class _Node(NamedTuple):
    """A split: of `n` windows, `a` go to the left. A leaf has a source and no sides."""

    n: int
    a: int
    sides: tuple[_Node, _Node] | None
    source: int

    def left(self, j: int) -> int:
        """How many of the first j windows go left: j * a / n rounded to the nearest, in integers."""
        return (j * self.a + self.n // 2) // self.n


def _tree(leaves: list[tuple[int, int]]) -> _Node:
    """Split (count, source) leaves into halves of about equal weight, heaviest first, until each stands alone."""
    n = sum(count for count, _ in leaves)
    if len(leaves) == 1:
        return _Node(n, n, None, leaves[0][1])
    sides: tuple[list, list] = ([], [])
    for leaf in sorted(leaves, key=lambda leaf: (-leaf[0], leaf[1])):
        min(sides, key=lambda side: sum(count for count, _ in side)).append(leaf)
    left, right = _tree(sides[0]), _tree(sides[1])
    return _Node(n, left.n, (left, right), -1)


def _descend(node: _Node, j: int) -> tuple[int, int]:
    """The j-th window below `node` -> (source, which window of that source)."""
    while node.sides:
        before = node.left(j)
        goes_left = node.left(j + 1) > before
        node, j = (node.sides[0], before) if goes_left else (node.sides[1], j - before)
    return node.source, j


def _fill(node: _Node, j: int, taken: list[int]) -> None:
    """Write how many of the first j windows below `node` each source gets."""
    if not node.sides:
        taken[node.source] = j
        return
    _fill(node.sides[0], node.left(j), taken)
    _fill(node.sides[1], j - node.left(j), taken)


def mix_problems(mix: Mapping[str, Mapping[str, float]], phases: Sequence[str], sources: Sequence[str]) -> list[str]:
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


def _fraction(weight: float) -> Fraction:
    """0.35 in a YAML file means 35/100, not the nearest binary number; the plan's counts hang on it."""
    return Fraction(str(weight))


def _check_epochs(rows: Sequence[PlanPhase], sources: Sequence[PlanSource], max_epochs: float, seq_len: int) -> None:
    """Caps hold over the whole run: the first phase that oversteps one is reported, with what it could have had."""
    for k, source in enumerate(sources):
        left = int(source.num_windows * Fraction(str(max_epochs)))
        for row in rows:
            if row.counts[k] > left:
                reachable = left * row.num_windows // row.counts[k] * seq_len
                raise ValueError(
                    f"data.max_epochs={max_epochs}: phase {row.name!r} asks for {row.counts[k]:,} windows of source "
                    f"{source.name!r}, which has {left:,} left of {source.num_windows:,} a pass; with this mix the "
                    f"phase can be at most {reachable:,} tokens. Lower its weight or budget, or raise max_epochs"
                )
            left -= row.counts[k]
