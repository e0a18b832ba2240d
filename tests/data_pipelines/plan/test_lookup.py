"""Plan.lookup: many windows at a time, the same as one by one; and the promises of a plan at the size of 17T tokens."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from data_pipelines.plan.make_plan import make_plan
from data_pipelines.plan.plan import Plan, PlanSource
from data_pipelines.plan.prp import Permutation
from data_pipelines.plan.split import descend, descend_each, tree

LARGE_PHASES = {"general": 1_220_703_125, "high_quality": 488_281_250, "stem": 366_210_937}
"""10T, 4T and 3T tokens in windows of 8,192."""
NUM_SOURCES = 30


def large_plan(**settings) -> Plan:
    """17T tokens of 30 sources that fall off like 1 / k^1.3, with another mix in each phase."""
    names = [f"source{k:02}" for k in range(NUM_SOURCES)]
    sources = [PlanSource(name=name, num_windows=int(3e8 / (k + 1) ** 1.3) + 1000) for k, name in enumerate(names)]
    mix = {
        phase: {name: round((k + 1 + i) ** -1.3, 4) for k, name in enumerate(names)}
        for i, phase in enumerate(LARGE_PHASES)
    }
    return make_plan(LARGE_PHASES, sources=sources, mix=mix, seed=0, seq_len=8192, block=4096, **settings)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000, 2**31 + 11, 2_075_195_312, 2**40 + 3])
def test_a_permutation_of_many_is_that_of_each(n: int):
    order, rng = Permutation(n, 12345), np.random.default_rng(0)
    i_N = np.unique(np.concatenate([[0, n - 1], rng.integers(0, n, 200)])).astype(np.uint64)
    assert order.of_each(i_N.copy()).tolist() == [order(int(i)) for i in i_N]


@pytest.mark.parametrize("scale", [1, 10**6, 2**31, 2**38])
def test_splits_of_many_are_those_of_each_beyond_64_bits_too(scale: int):
    """Of 2^40 windows, j * a has 80 bits."""
    root = tree([(3 * scale, 0), (scale, 1), (scale // 3 + 1, 2)])
    j_N = np.random.default_rng(0).integers(0, root.n, 300).astype(np.uint64)
    source_N, rank_N = descend_each(root, j_N)
    expected = [descend(root, int(j)) for j in j_N]
    assert list(zip(source_N.tolist(), rank_N.tolist(), strict=True)) == expected


def test_windows_of_17T_tokens_are_the_same_one_by_one():
    plan, rng = large_plan(), random.Random(0)
    edges = [0, 12_287, 12_288, 1_220_703_124, 1_220_703_125, plan.num_windows - 1]
    for first in [*edges, *(rng.randrange(plan.num_windows) for _ in range(300))]:
        stop = min(first + 3, plan.num_windows)
        assert plan.windows(first, stop) == [plan.window(g) for g in range(first, stop)]


def test_budgets_of_17T_tokens_are_exact_to_a_window_at_every_prefix():
    """Prefixes end where steps do: batches of 12,288 and of 16,384 windows are multiples of the block of 4,096."""
    plan, rng = large_plan(), np.random.default_rng(1)
    worst = 0.0
    for p, (phase, total) in enumerate(LARGE_PHASES.items()):
        exact = np.array([counts / total for counts in plan.phases[p].counts])
        assert sum(plan.phases[p].counts) == total
        start = sum(list(LARGE_PHASES.values())[:p])
        for edge in (rng.integers(start // 4096 + 1, (start + total) // 4096, 1000) * 4096).tolist():
            n, row = edge - start, plan.counts(edge)[phase]
            worst = max(worst, np.abs(np.array(list(row.values())) - n * exact).max())
    print(f"R7: largest error of a source at 3,000 prefixes: {worst:.2f} windows")
    assert worst <= 1.0  # the difference of two roundings by 1/2


def test_no_window_comes_twice_in_an_epoch_of_two_billion():
    """1e6 probes of one epoch of 2,075,195,312 windows: all places differ."""
    n = 2_075_195_312
    order = Permutation(n, 7)
    i_N = np.unique(np.random.default_rng(2).integers(0, n, 10**6)).astype(np.uint64)
    assert len(np.unique(order.of_each(i_N.copy()))) == len(i_N)


def test_an_epoch_of_a_hundred_thousand_windows_has_each_of_them_once():
    plan = make_plan(
        {"only": 200_000}, sources=[PlanSource(name="a", num_windows=100_000)], mix=None, seed=0, seq_len=8, block=64
    )
    found = plan.lookup(np.arange(200_000))
    for epoch in (0, 1):
        assert sorted(found.index_N[found.epoch_N == epoch].tolist()) == list(range(100_000))


def test_sources_of_a_sorted_corpus_are_spread_over_every_batch_as_by_chance():
    """A source sorted into 10 domains, in batches of 1,024: chi-squared of the domains in a batch has 9 degrees of
    freedom, so a mean of 9 with a standard error of sqrt(18 / 3,000) = 0.077; 99 % of means lie within 0.2."""
    n, batch = 50_000_000, 1024
    order = Permutation(n, 3)
    domain_N = order.of_each(np.arange(3000 * batch, dtype=np.uint64)) * np.uint64(10) // np.uint64(n)
    counts = np.stack([np.bincount(row, minlength=10) for row in domain_N.astype(np.int64).reshape(-1, batch)])
    chi2 = ((counts - batch / 10) ** 2 / (batch / 10)).sum(1)
    lag = np.corrcoef(domain_N[:-1].astype(float), domain_N[1:].astype(float))[0, 1]
    print(f"R8: chi-squared {chi2.mean():.2f} (9 by chance), correlation of neighbours {lag:.4f}")
    assert abs(chi2.mean() - 9) < 0.2
    assert abs(lag) < 2.58 / np.sqrt(len(domain_N))


def test_the_ledger_of_many_is_what_lookups_count():
    plan = large_plan()
    g = 1_220_703_125 + 5000
    counts, before = plan.counts(g), plan.counts(1_220_703_125)
    found = plan.windows(1_220_703_125, g)
    seen = Counter(window.source for window in found)
    assert {name: counts["high_quality"][name] - before["high_quality"][name] for name in seen} == dict(seen)
