from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.plan.prp import _GOLDEN, Permutation, _mix, derive_key


@pytest.mark.parametrize("n", [*range(1, 40), 255, 256, 257, 1000, 12_288])
def test_every_number_comes_exactly_once(n: int):
    permutation = Permutation(n, derive_key(0, "test", n))
    assert sorted(map(permutation, range(n))) == list(range(n))


def test_the_round_function_is_splitmix64():
    # First outputs of Vigna's splitmix64.c for state 1234567, as published with it.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [_mix(1234567 + k * _GOLDEN) for k in (1, 2, 3)] == expected


def test_the_order_is_pinned():
    """Golden vectors: if this fails, every checkpoint would resume on other data; raise plan.ALGORITHM."""
    assert list(map(Permutation(10, key=0), range(10))) == [9, 0, 7, 3, 8, 4, 5, 6, 2, 1]
    large = Permutation(2_075_195_312, key=1)  # 17T tokens in windows of 8,192
    assert [large(i) for i in range(4)] == [16_784_394, 1_608_663_638, 1_514_998_006, 66_906_756]
    assert derive_key(0, "epoch", "code", 3) == 15_211_834_532_336_760_988


def test_no_index_is_limited_to_32_or_64_bits():
    n = 2**70
    permutation = Permutation(n, key=5)
    images = {permutation(i) for i in (*range(1000), *range(n - 1000, n))}
    assert len(images) == 2000
    assert max(images) > 2**64


def test_keys_of_neighbouring_purposes_differ():
    """With seed + epoch as the key, (seed 0, epoch 1) and (seed 1, epoch 0) would share an order."""
    keys = {derive_key(seed, "epoch", name, epoch) for seed in range(5) for name in ("a", "b") for epoch in range(5)}
    assert len(keys) == 50


def test_shuffled_order_is_statistically_random():
    """A source sorted in 10 domains, read in batches of 500: chi-squared of the domains in a batch, and lag-1."""
    n, num_domains, batch = 50_000, 10, 500
    permutation = Permutation(n, derive_key(7, "quality"))
    order = np.array([permutation(i) for i in range(n)])
    counts = np.array(
        [np.bincount(rows * num_domains // n, minlength=num_domains) for rows in order.reshape(-1, batch)]
    )
    chi2 = ((counts - batch / num_domains) ** 2 / (batch / num_domains)).sum(1).mean()
    # Expected 9 * (1 - 500 / 50,000) = 8.9 without replacement; the mean of 100 batches has sd sqrt(18 / 100) = 0.42.
    assert abs(chi2 - 8.9) < 2.6 * 0.42
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 2.6 / np.sqrt(n)


def test_three_elements_come_in_every_order_equally_often():
    orders = [tuple(map(Permutation(3, key), range(3))) for key in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts) < 4 * 29  # sd of a binomial(6000, 1/6) is 29


def test_an_empty_permutation_is_refused():
    with pytest.raises(ValueError, match="at least one element, got n=0"):
        Permutation(0, key=1)
