"""Statistics of timings: percentiles, intervals, and whether two runs differ beyond noise. NumPy only.

Timings of one machine are neither independent nor normal: they drift, and neighbouring samples resemble each
other. So samples are kept in *rounds* (the bench visits every batch size once per round), intervals resample
whole rounds (cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997, ch. 3.8),
and two runs are only reported as different if a rank test and the interval agree and the change is relevant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = Sequence[float] | npt.NDArray[np.float64]
Rounds = Sequence[Sequence[float]]

RESAMPLES = 2000
"""Enough for a 95% interval steady to about a twentieth of its width (Efron and Tibshirani 1993, ch. 13)."""


@dataclass(frozen=True)
class Summary:
    """Order statistics of one sample, in the unit of the sample (``n`` values)."""

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def summarise(samples: Samples) -> Summary:
    """Order statistics with NumPy's default (linear) interpolation. Raises ValueError on an empty sample."""
    values = np.asarray(samples, np.float64)
    if values.size == 0:
        raise ValueError("no samples to summarise")
    p50, p90, p95, p99 = (float(x) for x in np.percentile(values, [50, 90, 95, 99]))
    std = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return Summary(
        int(values.size), float(values.mean()), std, float(values.min()), p50, p90, p95, p99, float(values.max())
    )


def bootstrap_median(rounds: Rounds, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Median of all samples with a 95% percentile interval from resampling whole rounds.

    With one round only, single samples are resampled (the interval then ignores drift and is too narrow).
    """
    medians = _resampled_medians(_units(rounds), resamples, np.random.default_rng(seed))
    low, high = np.percentile(medians, [2.5, 97.5])
    pooled = np.concatenate([np.asarray(r, np.float64) for r in rounds if len(r)])
    return Estimate(float(np.median(pooled)), float(low), float(high))


def ratio_of_medians(old: Rounds, new: Rounds, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """median(new) / median(old) of two unpaired runs with its 95% cluster-bootstrap interval."""
    rng = np.random.default_rng(seed)
    ratios = _resampled_medians(_units(new), resamples, rng) / _resampled_medians(_units(old), resamples, rng)
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = bootstrap_median(new, resamples=1).value / bootstrap_median(old, resamples=1).value
    return Estimate(value, float(low), float(high))


def paired_ratio(baseline: Samples, candidate: Samples, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Median of the ratios ``baseline[i] / candidate[i]`` of runs made in alternation: how many times faster.

    Raises ValueError when the two are empty or of different length: they would not be pairs.
    """
    a, b = np.asarray(baseline, np.float64), np.asarray(candidate, np.float64)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"paired runs must be as many on both sides, got {a.size} and {b.size}")
    ratios = a / b
    rng = np.random.default_rng(seed)
    medians = np.median(ratios[rng.integers(0, ratios.size, (resamples, ratios.size))], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Estimate(float(np.median(ratios)), float(low), float(high))


def mann_whitney(a: Samples, b: Samples) -> tuple[float, float]:
    """Two-sided Mann-Whitney U test: ``(U of a, p)``.

    Normal approximation with the tie and continuity corrections (Hollander, Wolfe and Chicken, Nonparametric
    Statistical Methods, 3rd ed., 4.1), which is what SciPy's ``mannwhitneyu(method="asymptotic")`` computes.
    Equal constant samples give p = 1. Raises ValueError on an empty side.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m = x.size, y.size
    if n == 0 or m == 0:
        raise ValueError("both samples need at least one value")
    _, inverse, counts = np.unique(np.concatenate([x, y]), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    midranks = ends - (counts - 1) / 2.0
    u = float(midranks[inverse[:n]].sum() - n * (n + 1) / 2.0)
    total = n + m
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = n * m / 12.0 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0.0:
        return u, 1.0
    distance = max(0.0, abs(u - n * m / 2.0) - 0.5)
    return u, math.erfc(distance / math.sqrt(2.0 * variance))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scand. J. Statist. 1979;6:65-70): p-values for a family of comparisons."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def poisson_arrivals(rate_per_s: float, duration_s: float, seed: int) -> npt.NDArray[np.float64]:
    """Arrival times in seconds, float64 ``[K]`` ascending, of a Poisson process; at least one."""
    if rate_per_s <= 0.0 or duration_s <= 0.0:
        raise ValueError("rate and duration must be positive")
    rng = np.random.default_rng(seed)
    count = max(1, int(rng.poisson(rate_per_s * duration_s)))
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    return np.sort(rng.uniform(0.0, duration_s, count))


def _units(rounds: Rounds) -> list[npt.NDArray[np.float64]]:
    units = [np.asarray(r, np.float64) for r in rounds if len(r)]
    if not units:
        raise ValueError("no samples")
    if len(units) == 1:
        return [units[0][i : i + 1] for i in range(units[0].size)]
    return units


def _resampled_medians(
    units: list[npt.NDArray[np.float64]], resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    picks = rng.integers(0, len(units), (resamples, len(units)))
    if all(unit.size == units[0].size for unit in units):
        stacked = np.stack(units)
        return np.asarray(np.median(stacked[picks].reshape(resamples, -1), axis=1), np.float64)
    return np.array([np.median(np.concatenate([units[i] for i in row])) for row in picks], np.float64)
