"""Statistics of timings against SciPy (where installed) and naive counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.bench import statistics


def test_summary_is_numpy_percentiles_and_naive_mean() -> None:
    values = [0.003, 0.001, 0.002, 0.010]
    summary = statistics.summarise(values)
    assert summary.n == 4
    assert summary.p50 == pytest.approx(0.0025)
    assert summary.p90 == pytest.approx(0.003 + 0.7 * 0.007)
    assert summary.mean == pytest.approx(sum(values) / 4)
    assert (summary.min, summary.max) == (0.001, 0.010)
    assert summary.std == pytest.approx(math.sqrt(sum((v - summary.mean) ** 2 for v in values) / 3))


def test_empty_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        statistics.summarise([])
    with pytest.raises(ValueError, match="no samples"):
        statistics.bootstrap_median([[], []])
    with pytest.raises(ValueError, match="at least one"):
        statistics.mann_whitney([], [1.0])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
)
def test_mann_whitney_u_counts_pairs(a: list[int], b: list[int]) -> None:
    naive = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    u, p = statistics.mann_whitney([float(x) for x in a], [float(x) for x in b])
    assert u == pytest.approx(naive)
    assert 0.0 <= p <= 1.0


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_mann_whitney_equals_scipy(shift: float, ties: bool) -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="SciPy is the reference here")
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 41), rng.normal(shift, 1, 57)
    if ties:
        a, b = np.round(a), np.round(b)
    expected = scipy_stats.mannwhitneyu(a, b, alternative="two-sided", method="asymptotic")
    u, p = statistics.mann_whitney(a, b)
    assert u == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)


def test_identical_constant_samples_do_not_differ() -> None:
    assert statistics.mann_whitney([1.0] * 5, [1.0] * 9)[1] == 1.0


def test_holm_adjusts_stepwise() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_paired_ratio_is_robust_to_a_slow_machine() -> None:
    """A round in which everything takes 10 times longer leaves the ratio where it was."""
    slow = np.array([1.0, 1.0, 10.0, 1.0, 1.0])
    estimate = statistics.paired_ratio(2.0 * slow, slow)
    assert estimate.value == pytest.approx(2.0)
    assert (estimate.low, estimate.high) == pytest.approx((2.0, 2.0))
    with pytest.raises(ValueError, match="as many"):
        statistics.paired_ratio([1.0], [1.0, 2.0])


def test_cluster_bootstrap_is_wider_than_naive_when_rounds_drift() -> None:
    rng = np.random.default_rng(0)
    rounds = [list(level + rng.normal(0, 0.01, 40)) for level in (1.0, 1.2, 1.4, 1.1, 1.3, 1.5)]
    clustered = statistics.bootstrap_median(rounds)
    naive = statistics.bootstrap_median([[value for r in rounds for value in r]])
    assert clustered.value == naive.value
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)
    assert clustered.low < clustered.value < clustered.high


def test_bootstrap_interval_covers_the_median() -> None:
    """95% intervals hold the true median in about 95 of 100 drawn samples."""
    covered = 0
    for seed in range(200):
        sample = np.random.default_rng(seed).exponential(1.0, 60)
        estimate = statistics.bootstrap_median([list(sample)], resamples=400, seed=seed)
        covered += estimate.low <= math.log(2.0) <= estimate.high
    assert 178 <= covered <= 200


def test_unequal_rounds_pool_all_samples() -> None:
    estimate = statistics.bootstrap_median([[1.0, 1.0, 1.0], [3.0], [1.0, 2.0]])
    assert estimate.value == 1.0
    assert estimate.high <= 3.0


def test_ratio_of_medians_sees_a_slowdown() -> None:
    rng = np.random.default_rng(1)
    old = [list(rng.normal(1.0, 0.02, 20)) for _ in range(5)]
    new = [list(rng.normal(1.3, 0.02, 20)) for _ in range(5)]
    estimate = statistics.ratio_of_medians(old, new)
    assert estimate.low > 1.25
    assert estimate.high < 1.35


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    times = statistics.poisson_arrivals(200.0, 50.0, seed=0)
    assert np.all(np.diff(times) >= 0.0)
    assert len(times) == pytest.approx(10_000, rel=0.03)
    gaps = np.diff(times)
    # The gaps of a Poisson process have a standard deviation equal to their mean.
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ValueError, match="positive"):
        statistics.poisson_arrivals(0.0, 1.0, seed=0)
