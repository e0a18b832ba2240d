"""Which window of which source is global window g? A pure function of g: no state, O(1) resume at any rank count.

A window is `seq_len` target tokens; windows are numbered g = 0, 1, 2, ... over the whole run. Looking one up:

    g ─┬─ place      g plus the windows before it that are skipped: its place in the order
       ├─ phase      by the prefix sums of the phase budgets; i = place - first place of the phase
       ├─ shuffle    i moves inside its block of `block` windows by a keyed permutation, so that the regular pattern
       │             of the next line never pins a source to one rank
       ├─ source     by the exact share of each in the blocks before (mixing.py); gives the source and how many of its
       │             windows came before
       └─ index      that count, continued over phases, is epoch * W + position; each epoch reads the W windows of the
                     source in a fresh keyed permutation

Where phases differ in their sequence length, sources are read in blocks of the longest: an epoch permutes blocks, and a
phase of shorter windows permutes the windows in its own blocks of an epoch. So no token comes twice in an epoch, and at
most one block a source and phase is not read to its end.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import xxhash

from data_pipelines.plan.mixing import PhaseMix, TreeMix
from data_pipelines.plan.prp import Permutation, derive_key
from data_pipelines.plan.skips import Skips, skipped_before

NEWEST = 2
"""Algorithm of new plans. It is part of the hash: a change of the order is another plan, even for the same settings.

2: blocks lie at multiples of their size over the whole run, as global batches do; mixing.py shares them
1: blocks begin anew with each phase; a tree of splits shares the windows one by one, up to 1.2 windows off
"""


class Window(NamedTuple):
    """Where one global window comes from: target tokens [index * seq_len + 1, (index + 1) * seq_len] of `source`."""

    phase: str
    source: str
    epoch: int
    index: int
    seq_len: int


class Places(NamedTuple):
    """The same of many windows, a number each, int64 [N]."""

    phase_N: np.ndarray
    """In `Plan.phases`."""
    source_N: np.ndarray
    """In `Plan.sources`."""
    epoch_N: np.ndarray
    index_N: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PlanSource:
    """What the plan knows about a source."""

    name: str
    num_windows: int
    fingerprint: str = ""
    """Hash of the tokens: a corpus that was tokenised again is another plan."""
    num_tokens: int = 0
    """Known where phases differ in their sequence length, else 0."""


@dataclass(frozen=True, kw_only=True)
class PlanPhase:
    """A phase with its budget split: counts[k] windows of sources[k]."""

    name: str
    counts: tuple[int, ...]
    cut: int | None = None
    """Windows that are served of it, where an edit of the plan ended it early."""
    seq_len: int | None = None
    """Target tokens of its windows, where that is not the plan's."""

    @property
    def num_windows(self) -> int:
        """Windows of the phase."""
        return sum(self.counts) if self.cut is None else self.cut


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A plan that another one continues."""

    hash: str
    num_windows: int
    """How many of its first windows both have."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of all windows of a run. make_plan.py builds one from budgets and weights."""

    seed: int
    seq_len: int
    block: int
    """Windows in a block of the shuffle. Where it divides all global batches, every step ends at the edge of one."""
    sources: tuple[PlanSource, ...]
    phases: tuple[PlanPhase, ...]
    skips: Skips = ()
    """Places that are passed over."""
    continues: tuple[Earlier, ...] = ()
    """Plans that a run may have trained on before: its checkpoints are good for this one too, up to a window."""
    algorithm: int = 1
    """NEWEST for new plans; runs that were begun by an earlier version go on as they were begun."""

    @cached_property
    def hash(self) -> str:
        """32 hex digits that change with anything that changes the order or the tokens."""
        identity = json.dumps(_without_defaults(asdict(self)), sort_keys=True)
        return xxhash.xxh3_128_hexdigest(identity.encode())

    @property
    def num_windows(self) -> int:
        """Windows of the whole run."""
        return self._edges[-1] - skipped_before(self.skips, self._edges[-1])

    @property
    def phase_names(self) -> list[str]:
        """Each once: an edit cuts a phase into several parts of one name."""
        return list(dict.fromkeys(phase.name for phase in self.phases))

    @property
    def unedited_tokens(self) -> float:
        """Target tokens up to the last edit of the plan, if there was one: what was trained of them stays."""
        return self.continues[0].num_windows * self.seq_len if self.continues else float("inf")

    def is_good_for(self, hash_: str, num_windows: int) -> bool:
        """Whether a run that trained the first `num_windows` windows of the plan `hash_` may go on with this one."""
        return hash_ == self.hash or any(
            earlier.hash == hash_ and num_windows <= earlier.num_windows for earlier in self.continues
        )

    def window(self, g: int) -> Window:
        """Where window g comes from, counted from 0. Raises IndexError outside of 0 .. num_windows - 1."""
        if not 0 <= g < self.num_windows:
            raise IndexError(f"window {g:,} is outside of the plan's {self.num_windows:,} windows")
        place = self.place(g)
        p = bisect_right(self._edges, place) - 1
        first, end = self._block_around(p, place - self._edges[p])
        offset = self._order_in_block(p, first, end)(place - self._edges[p] - first)
        k, rank = self._mixes[p].pick(first, end, offset)
        epoch, index = self._read(p, k, rank)
        return Window(self.phases[p].name, self.sources[k].name, epoch, index, self.seq_len_of(p))

    def windows(self, first: int, stop: int) -> list[Window]:
        """Windows first .. stop - 1, each as `window` gives it. Raises IndexError."""
        found = self.lookup(np.arange(first, stop))
        names = [source.name for source in self.sources]
        phases = [(phase.name, self.seq_len_of(p)) for p, phase in enumerate(self.phases)]
        columns = (column.tolist() for column in found)
        return [
            Window(phases[p][0], names[k], epoch, index, phases[p][1])
            for p, k, epoch, index in zip(*columns, strict=True)
        ]

    def lookup(self, g_N: np.ndarray) -> Places:
        """Where windows come from, by the number of each. Raises IndexError outside of 0 .. num_windows - 1."""
        if len(g_N) and not (g_N.min() >= 0 and g_N.max() < self.num_windows):
            raise IndexError(f"windows outside of the plan's {self.num_windows:,} windows")
        place_N = g_N.astype(np.uint64)
        for first, stop in self.skips:
            place_N[place_N >= np.uint64(first)] += np.uint64(stop - first)
        return self._looked_up(place_N)

    def place(self, g: int) -> int:
        """Window g's place in the order, or, for the number of all windows, where the order ends."""
        for first, stop in self.skips:
            if g < first:
                break
            g += stop - first
        return g

    def counts(self, g: int) -> dict[str, dict[str, int]]:
        """Phase -> source -> how many of the windows 0 .. g-1 it gives."""
        if not 0 <= g <= self.num_windows:
            raise ValueError(f"the plan has {self.num_windows:,} windows, so no prefix of {g:,}")
        place = self.place(g - 1) + 1 if g else 0
        rows: dict[str, dict[str, int]] = {}
        for p, phase in enumerate(self.phases):
            taken = self.taken(p, max(0, min(place, self._edges[p + 1]) - self._edges[p]))
            row = rows.setdefault(phase.name, {})
            for k, source in enumerate(self.sources):
                if phase.counts[k]:
                    row[source.name] = row.get(source.name, 0) + taken[k]
        for phase_name, source_name, count in self.skipped(g):
            rows[phase_name][source_name] -= count
        return rows

    def skipped(self, g: int) -> list[tuple[str, str, int]]:
        """(phase, source, windows) that are passed over before window g."""
        found: list[tuple[str, str, int]] = []
        place = self.place(g - 1) if g else 0
        for first, stop in self.skips:
            if first > place:
                break
            passed = self._looked_up(np.arange(first, min(stop, self._edges[-1]), dtype=np.uint64))
            pairs, counts = np.unique(np.stack([passed.phase_N, passed.source_N]), axis=1, return_counts=True)
            for (p, k), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
                found.append((self.phases[p].name, self.sources[k].name, count))
        return found

    def seq_len_of(self, p: int) -> int:
        """Target tokens of the windows of phase number p."""
        return self.phases[p].seq_len or self.seq_len

    def taken(self, p: int, n: int) -> list[int]:
        """Of each source, in the first n windows of phase p: in closed form up to a block's edge, then one by one."""
        edge = self._block_around(p, n)[0] if n < sum(self.phases[p].counts) else n
        taken = self._mixes[p].taken(edge)
        if edge < n:
            rest = self._looked_up(np.arange(self._edges[p] + edge, self._edges[p] + n, dtype=np.uint64))
            for k, count in enumerate(np.bincount(rest.source_N, minlength=len(self.sources)).tolist()):
                taken[k] += count
        return taken

    def _looked_up(self, place_N: np.ndarray) -> Places:
        phase_N = np.searchsorted(np.array(self._edges[1:], np.uint64), place_N, side="right")
        found = Places(phase_N, *(np.empty(len(place_N), np.int64) for _ in range(3)))
        for p in np.unique(phase_N).tolist():
            of_phase = np.flatnonzero(phase_N == p)
            source_M, rank_M = self._pick_each(p, place_N[of_phase] - np.uint64(self._edges[p]))
            found.source_N[of_phase] = source_M
            for k in np.unique(source_M).tolist():
                of_source = source_M == k
                epoch_L, index_L = self._read_each(p, k, rank_M[of_source])
                found.epoch_N[of_phase[of_source]], found.index_N[of_phase[of_source]] = epoch_L, index_L
        return found

    def _pick_each(self, p: int, i_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows i of phase p -> (source int64 [N], which window of that source uint64 [N]), block by block."""
        source_N, rank_N = np.empty(len(i_N), np.int64), np.empty(len(i_N), np.uint64)
        block_N = (i_N + np.uint64(self._first_of_block(p))) // np.uint64(self.block)
        edges = [*np.flatnonzero(np.diff(block_N, prepend=block_N[:1] + np.uint64(1))).tolist(), len(i_N)]
        for start, stop in pairwise(edges):
            first, end = self._block_around(p, int(i_N[start]))
            offset_M = self._order_in_block(p, first, end).of_each(i_N[start:stop] - np.uint64(first))
            source_N[start:stop], rank_N[start:stop] = self._mixes[p].pick_each(first, end, offset_M)
        return source_N, rank_N

    def _block_around(self, p: int, i: int) -> tuple[int, int]:
        """[first, end) of the block that window i of phase p lies in, counted from the start of the phase."""
        origin = self._first_of_block(p)
        first = (i + origin) // self.block * self.block - origin
        return max(0, first), min(first + self.block, sum(self.phases[p].counts))

    def _first_of_block(self, p: int) -> int:
        """Where in a block phase p begins."""
        return self._edges[p] % self.block if self.algorithm > 1 else 0

    def _order_in_block(self, p: int, first: int, end: int) -> Permutation:
        return _order(end - first, self.seed, "block", p, (first + self._first_of_block(p)) // self.block)

    def _read(self, p: int, k: int, rank: int) -> tuple[int, int]:
        """The rank-th window of source k in phase p -> (epoch, its index)."""
        parts, start = self._parts[p], self._starts[p][k]
        num_blocks, name = self._num_blocks[k], self.sources[k].name
        epoch, y = divmod(start * parts + rank, num_blocks * parts)
        if parts > 1:
            low, high = self._part_of_epoch(p, k, epoch)
            y = low + _order(high - low, self.seed, "part", p, name, epoch)(y - low)
        block = _order(num_blocks, self.seed, "epoch", name, epoch)(y // parts)
        return epoch, block * parts + y % parts

    def _read_each(self, p: int, k: int, rank_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts, start = self._parts[p], self._starts[p][k]
        num_blocks, name = self._num_blocks[k], self.sources[k].name
        epoch_N, y_N = np.divmod(rank_N + np.uint64(start * parts), np.uint64(num_blocks * parts))
        index_N = np.empty(len(rank_N), np.int64)
        for epoch in np.unique(epoch_N).tolist():
            of_epoch = epoch_N == epoch
            y_M = y_N[of_epoch]
            if parts > 1:
                low, high = self._part_of_epoch(p, k, epoch)
                inner = _order(high - low, self.seed, "part", p, name, epoch).of_each(y_M - np.uint64(low))
                y_M = inner + np.uint64(low)
            block_M, part_M = np.divmod(y_M, np.uint64(parts))
            block_M = _order(num_blocks, self.seed, "epoch", name, epoch).of_each(block_M)
            index_N[of_epoch] = block_M * np.uint64(parts) + part_M
        return epoch_N.astype(np.int64), index_N

    def _part_of_epoch(self, p: int, k: int, epoch: int) -> tuple[int, int]:
        """Windows [low, high) of the epoch of source k that phase p reads, before they are permuted."""
        parts = self._parts[p]
        first, size = self._starts[p][k] * parts, self._num_blocks[k] * parts
        return max(0, first - epoch * size), min(size, first + self.phases[p].counts[k] - epoch * size)

    @cached_property
    def _parts(self) -> list[int]:
        """Windows in a block of the longest sequence length, for each phase."""
        longest = max(self.seq_len_of(p) for p in range(len(self.phases)))
        return [longest // self.seq_len_of(p) for p in range(len(self.phases))]

    @cached_property
    def _num_blocks(self) -> list[int]:
        """Blocks in an epoch of each source."""
        if max(self._parts) == 1:
            return [source.num_windows for source in self.sources]
        longest = max(self.seq_len_of(p) for p in range(len(self.phases)))
        return [max(0, source.num_tokens - 1) // longest for source in self.sources]

    @cached_property
    def _edges(self) -> tuple[int, ...]:
        """Place of the first window of each phase, and the end."""
        return (0, *accumulate(phase.num_windows for phase in self.phases))

    @cached_property
    def _starts(self) -> list[list[int]]:
        """[phase][source]: blocks of the source used up by earlier phases."""
        rows = [[0] * len(self.sources)]
        for p in range(len(self.phases)):
            used = self.used_in(p)
            rows.append([start + -(-count // self._parts[p]) for start, count in zip(rows[-1], used, strict=True)])
        return rows

    def used_in(self, p: int) -> Sequence[int]:
        """Windows of each source that phase p takes. Of a phase that was cut short, with the rest of the shuffle block
        in which it ended: which of its windows were served lies in between."""
        phase = self.phases[p]
        if phase.cut is None:
            return phase.counts
        return self._mixes[p].taken(self._block_around(p, phase.cut - 1)[1])

    @property
    def used_up(self) -> list[int]:
        """Blocks of each source that the whole plan takes; where all windows are equal, a block is a window."""
        return self._starts[-1]

    @cached_property
    def _mixes(self) -> list[PhaseMix | TreeMix]:
        kind = PhaseMix if self.algorithm > 1 else TreeMix
        return [kind(phase.counts, self.block) for phase in self.phases]


def _without_defaults(plan: dict[str, Any]) -> dict[str, Any]:
    """What is not used does not change the hash: plans of earlier versions keep theirs."""
    unused = {"skips": (), "continues": (), "cut": None, "seq_len": None, "num_tokens": 0}

    def pruned(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in unused or value != unused[name]}

    parts: dict[str, Sequence[dict[str, Any]]] = {name: plan[name] for name in ("sources", "phases")}
    return pruned(plan) | {name: [pruned(fields) for fields in of_plan] for name, of_plan in parts.items()}


@lru_cache(1024)
def _order(n: int, seed: int, *purpose: str | int) -> Permutation:
    return Permutation(n, derive_key(seed, *purpose))
