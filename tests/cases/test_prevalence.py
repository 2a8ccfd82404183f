"""Intervals, correction for an imperfect classifier, clinical classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomedge.cases.prevalence import band, remuzzi_grade, rogan_gladen, settled_band, wilson_interval
from glomedge.model.spec import OperatingPoint


@pytest.mark.parametrize(
    ("positive", "total", "low", "high"),
    # Percent, one decimal: published for donor biopsies; 81/263 and 15/148 are Newcombe, Stat Med 1998;17:857, table I.
    [(5, 25, 8.9, 39.1), (5, 50, 4.3, 21.4), (0, 25, 0.0, 13.3), (81, 263, 25.5, 36.6), (15, 148, 6.2, 16.0)],
)
def test_wilson_published(positive: int, total: int, low: float, high: float) -> None:
    interval = wilson_interval(positive, total)
    assert [round(100 * end, 1) for end in interval] == [low, high]


def test_wilson_solves_its_equation() -> None:
    # Wilson's definition: the two proportions from which the observed one is exactly z standard errors away.
    z = 1.959963984540054
    for total in (1, 7, 25, 1000):
        for positive in {0, 1, total // 3, total - 1, total}:
            for end in wilson_interval(positive, total):
                distance = (positive / total - end) ** 2
                assert distance == pytest.approx(z * z * end * (1 - end) / total, abs=1e-12)


def test_wilson_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for confidence, total in itertools.product((0.8, 0.95, 0.99), (1, 5, 25, 830)):
        for positive in range(0, total + 1, max(1, total // 7)):
            expected = stats.binomtest(positive, total).proportion_ci(confidence, method="wilson")
            assert wilson_interval(positive, total, confidence) == pytest.approx(
                (expected.low, expected.high), abs=1e-12
            )


def test_wilson_ends() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize(("positive", "total"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts(positive: int, total: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(positive, total)
    with pytest.raises(ValueError, match="not a proportion"):
        remuzzi_grade(positive, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_impossible_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 5, confidence)


def test_rogan_gladen_recovers_the_true_prevalence() -> None:
    # Sensitivity 0.95, specificity 0.98: a true 5% reads 0.05 * 0.95 + 0.95 * 0.02 = 6.65%.
    corrected = rogan_gladen(
        665, 10_000, OperatingPoint(true_positive=95, false_negative=5, true_negative=98, false_positive=2)
    )
    assert corrected is not None
    assert corrected.value == pytest.approx(0.05, abs=1e-12)
    assert corrected.low < 0.05 < corrected.high


def lang_reiczigel(x: int, n: int, tp: int, fn: int, tn: int, fp: int) -> tuple[float, float]:
    """The interval in the paper's notation (equations 6, 7, 4 with primes, 17, 16), unclipped."""
    z = 1.959963984540054
    n_se, n_sp = tp + fn, tn + fp
    n_p_prime, n_se_prime, n_sp_prime = n + z**2, n_se + 2, n_sp + 2
    ap_prime = (n * (x / n) + z**2 / 2) / (n + z**2)
    se_prime, sp_prime = (n_se * (tp / n_se) + 1) / (n_se + 2), (n_sp * (tn / n_sp) + 1) / (n_sp + 2)
    p_prime = (ap_prime + sp_prime - 1) / (se_prime + sp_prime - 1)
    dp = (
        2
        * z**2
        * (p_prime * se_prime * (1 - se_prime) / n_se_prime - (1 - p_prime) * sp_prime * (1 - sp_prime) / n_sp_prime)
    )
    var = (
        ap_prime * (1 - ap_prime) / n_p_prime
        + p_prime**2 * se_prime * (1 - se_prime) / n_se_prime
        + (1 - p_prime) ** 2 * sp_prime * (1 - sp_prime) / n_sp_prime
    ) / (se_prime + sp_prime - 1) ** 2
    return p_prime + dp - z * math.sqrt(var), p_prime + dp + z * math.sqrt(var)


@pytest.mark.parametrize(
    "counts", [(5, 25, 160, 14, 640, 16), (0, 25, 9, 1, 40, 2), (30, 30, 55, 6, 70, 3), (12, 40, 7, 3, 8, 2)]
)
def test_corrected_interval_is_lang_and_reiczigel(counts: tuple[int, int, int, int, int, int]) -> None:
    x, n, tp, fn, tn, fp = counts
    corrected = rogan_gladen(
        x, n, OperatingPoint(true_positive=tp, false_negative=fn, true_negative=tn, false_positive=fp)
    )
    assert corrected is not None
    low, high = lang_reiczigel(*counts)
    assert corrected.low == pytest.approx(max(0.0, low), abs=1e-12)
    assert corrected.high == pytest.approx(min(1.0, high), abs=1e-12)


@pytest.mark.parametrize(("prevalence", "crops"), [(0.05, 25), (0.2, 25), (0.2, 50), (0.5, 50), (0.1, 100)])
def test_corrected_interval_covers_the_truth(prevalence: float, crops: int) -> None:
    # The whole experiment drawn anew each time, sensitivity and specificity estimated each time.
    rng = np.random.default_rng(1)
    sensitivity, specificity, positives, negatives, draws = 0.9, 0.96, 60, 200, 3000
    apparent = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    covered = 0
    for x, tp, tn in zip(
        rng.binomial(crops, apparent, draws),
        rng.binomial(positives, sensitivity, draws),
        rng.binomial(negatives, specificity, draws),
        strict=True,
    ):
        point = OperatingPoint(
            true_positive=int(tp),
            false_negative=positives - int(tp),
            true_negative=int(tn),
            false_positive=negatives - int(tn),
        )
        corrected = rogan_gladen(int(x), crops, point)
        assert corrected is not None
        covered += corrected.low <= prevalence <= corrected.high
    assert covered / draws >= 0.94  # nominal 0.95; the draws' own standard error is 0.004


def test_corrected_interval_narrows_with_more_validation_crops() -> None:
    widths = []
    for scale in (1, 10, 100):
        point = OperatingPoint(
            true_positive=18 * scale, false_negative=2 * scale, true_negative=48 * scale, false_positive=2 * scale
        )
        corrected = rogan_gladen(100, 400, point)
        assert corrected is not None
        widths.append(corrected.high - corrected.low)
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize(
    ("tp", "fn", "tn", "fp"),
    [(5, 5, 5, 5), (2, 8, 8, 2), (1, 9, 5, 5), (0, 0, 5, 1), (5, 1, 0, 0), (1, 0, 1, 3), (1, 0, 2, 5)],
)
def test_no_correction_for_a_classifier_no_better_than_chance(tp: int, fn: int, tn: int, fp: int) -> None:
    point = OperatingPoint(true_positive=tp, false_negative=fn, true_negative=tn, false_positive=fp)
    assert rogan_gladen(5, 25, point) is None


@pytest.mark.parametrize(("x", "n", "known"), [(0, 122, False), (0, 56, True), (122, 122, False), (60, 122, True)])
def test_no_correction_where_the_crops_contradict_the_held_out_ones(x: int, n: int, known: bool) -> None:
    # Specificity 200/214 foretells 8 false positives among 122 negatives, sensitivity 80/86 as many misses.
    counts = (80, 6, 200, 14)
    point = OperatingPoint(true_positive=80, false_negative=6, true_negative=200, false_positive=14)
    low, high = lang_reiczigel(x, n, *counts)
    assert (high > 0 and low < 1) is known
    assert (rogan_gladen(x, n, point) is not None) is known


@given(st.integers(0, 60), st.integers(0, 60), *[st.integers(0, 40)] * 4)
def test_correction_stays_a_fraction(a: int, b: int, tp: int, fn: int, tn: int, fp: int) -> None:
    point = OperatingPoint(true_positive=tp, false_negative=fn, true_negative=tn, false_positive=fp)
    corrected = rogan_gladen(min(a, b), max(a, b), point)
    if corrected is not None:
        assert 0.0 <= corrected.low < corrected.high <= 1.0
        assert 0.0 <= corrected.value <= 1.0


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (0, "0-10%"),
        (10, "0-10%"),
        (10.1, "11-20%"),
        (10.5, "11-20%"),
        (11, "11-20%"),
        (20, "11-20%"),
        (20.4, ">20%"),
        (100, ">20%"),
    ],
)
def test_band(percent: float, expected: str) -> None:
    assert band(percent / 100) == expected


def test_band_of_counts_has_no_rounding_error() -> None:
    for total in range(1, 400):
        for positive in range(total + 1):
            exact = "0-10%" if 10 * positive <= total else "11-20%" if 5 * positive <= total else ">20%"
            assert band(positive / total) == exact


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 0.1, "0-10%"),
        (0.0, 0.133, "undetermined"),
        (0.11, 0.2, "11-20%"),
        (0.05, 0.3, "undetermined"),
        (0.21, 1.0, ">20%"),
    ],
)
def test_settled_band(low: float, high: float, expected: str) -> None:
    assert settled_band(low, high) == expected


@pytest.mark.parametrize("fraction", [-0.01, 1.01, math.nan])
def test_band_of_no_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        band(fraction)


@pytest.mark.parametrize(
    ("positive", "total", "score"),
    [
        (0, 25, 0),
        (1, 25, 1),
        (4, 25, 1),
        (5, 25, 2),
        (6, 25, 2),
        (12, 24, 2),
        (13, 25, 3),
        (25, 25, 3),
        (0, 1, 0),
        (1, 1, 3),
    ],
)
def test_remuzzi(positive: int, total: int, score: int) -> None:
    assert remuzzi_grade(positive, total) == score


def test_no_glomeruli_no_score() -> None:
    with pytest.raises(ValueError, match="no glomeruli"):
        remuzzi_grade(0, 0)
