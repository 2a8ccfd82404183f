"""Slope and offset of a site: the fit, what it refuses, and intervals that hold."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.lib.drawn_sites import DrawnSite, accuracies, draw_site
from glomedge.cases.prevalence import rogan_gladen, wilson_interval
from glomedge.cases.recalibration import (
    LOG_SLOPE_SD,
    OFFSET_SD,
    Labelled,
    Recalibrated,
    check_labels,
    effective_size,
    fit_line,
    of_crops,
    recalibrate,
)
from glomedge.errors import DatasetError, UsageError

Floats = npt.NDArray[np.float64]


def naive_loss(crops: Labelled, log_slope: float, offset: float) -> float:
    """The penalised negative log likelihood, crop by crop."""
    total = log_slope**2 / (2 * LOG_SLOPE_SD**2) + offset**2 / (2 * OFFSET_SD**2)
    scale = effective_size(crops.weights) / crops.weights.sum()
    for x, label, weight in zip(crops.logits, crops.labels, crops.weights, strict=True):
        p = 1 / (1 + math.exp(-(math.exp(log_slope) * x + offset)))
        total -= weight * scale * math.log(p if label else 1 - p)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_the_least_of_the_penalised_loss(seed: int) -> None:
    crops = draw_site(seed).labelled(30, seed)
    line = fit_line(crops)
    at = math.log(line.slope), line.offset
    least = naive_loss(crops, *at)
    for step in (1e-3, 0.05, 0.7):
        for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False):
            there = at[0] + step * math.cos(angle), at[1] + step * math.sin(angle)
            assert naive_loss(crops, *there) > least


def test_the_covariance_is_the_inverse_curvature_of_the_loss() -> None:
    crops = draw_site(7).labelled(40, 0)
    line, h = fit_line(crops), 1e-4
    at = np.array([math.log(line.slope), line.offset])
    curvature = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            a, b = np.eye(2)[i] * h, np.eye(2)[j] * h
            corners = [naive_loss(crops, *(at + s * a + t * b)) for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
            curvature[i, j] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * h * h)
    turn = np.diag([line.slope, 1.0])
    assert np.allclose(line.covariance, turn @ np.linalg.inv(curvature) @ turn, rtol=1e-3)


def test_a_known_shift_is_found_with_many_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, 4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-(0.6 * x + 1.8)))).astype(int)
    line = fit_line(of_crops(x.tolist(), y.tolist(), [1.0] * 4000, ["a"] * 4000))
    assert line.slope == pytest.approx(0.6, abs=0.05)
    assert line.offset == pytest.approx(1.8, abs=0.15)


def test_labels_that_agree_with_the_model_hardly_move_it_and_separated_ones_stay_finite() -> None:
    x = [-6.0, -5.0, -4.5, -4.0, -3.0, 3.0, 4.0, 4.5, 5.0, 6.0] * 3
    line = fit_line(of_crops(x, [int(value > 0) for value in x], [1.0] * 30, ["a"] * 30))
    assert 0.8 < line.slope < 1.6  # without a prior it would grow without end
    assert abs(line.offset) < 0.01


@pytest.mark.parametrize("factor", [0.01, 7.0])
def test_only_the_ratio_of_weights_counts(factor: float) -> None:
    crops = draw_site(8).labelled(30, 1)
    scaled = Labelled(crops.logits, crops.labels, crops.weights * factor, crops.cases)
    assert fit_line(scaled).offset == pytest.approx(fit_line(crops).offset, rel=1e-9)
    assert recalibrate(scaled).operating_point == recalibrate(crops).operating_point


def test_weights_are_used() -> None:
    crops = draw_site(8).labelled(30, 1)
    alike = Labelled(crops.logits, crops.labels, np.ones(30), crops.cases)
    assert abs(fit_line(alike).offset - fit_line(crops).offset) > 1e-3


def test_counts_come_from_biopsies_left_out() -> None:
    # Each biopsy is called by a line that has not seen it: written out here as plain loops.
    crops = draw_site(9, offset_sd=3.0).labelled(24, 2)
    weight_right, weight_all = {0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}
    for case in set(crops.cases):
        inside = np.array([other == case for other in crops.cases])
        line = fit_line(crops.part(~inside))
        for x, label, weight in zip(crops.logits[inside], crops.labels[inside], crops.weights[inside], strict=True):
            call = 1 / (1 + math.exp(-(line.slope * x + line.offset))) >= 0.5
            weight_all[label] += weight
            weight_right[label] += weight * (call == bool(label))
    point = recalibrate(crops, "0.5").operating_point
    positives = point.true_positive + point.false_negative
    negatives = point.true_negative + point.false_positive
    assert positives == math.floor(effective_size(crops.weights[crops.labels == 1]))
    assert negatives == math.floor(effective_size(crops.weights[crops.labels == 0]))
    assert point.true_positive == round(positives * weight_right[1] / weight_all[1])
    assert point.true_negative == round(negatives * weight_right[0] / weight_all[0])


def test_a_biopsy_with_all_crops_of_a_class_is_not_called_at_a_threshold_that_has_seen_it() -> None:
    # Without biopsy p all crops are negative: no threshold can be fitted, so 0.5 calls its crops.
    logits = [*np.linspace(-8.0, -4.0, 18).tolist(), 0.5, 0.6, 0.7, 0.8]
    crops = of_crops(logits, [0] * 18 + [1] * 4, [1.0] * 22, [f"n{index % 3}" for index in range(18)] + ["p"] * 4)
    inside = fit_line(crops.part(np.array(crops.labels == 0))).probabilities(crops.logits[18:])
    found = recalibrate(crops, "sensitivity=0.25")
    assert 0.5 < inside.min() < inside.max() < found.threshold
    assert found.calls[18:].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("rule", ["0.3", "youden", "sensitivity=0.9"])
def test_threshold_rules_are_those_of_training(rule: str) -> None:
    crops = draw_site(10).labelled(40, 0)
    found = recalibrate(crops, rule)
    calls = found.line.probabilities(crops.logits) >= found.threshold
    positive = crops.labels == 1
    if rule == "0.3":
        assert found.threshold == 0.3
    elif rule == "youden":
        assert calls[positive].mean() + (~calls[~positive]).mean() > 1.7
    else:
        assert crops.weights[positive & calls].sum() / crops.weights[positive].sum() >= 0.9


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="threshold rule"):
        recalibrate(draw_site(10).labelled(40, 0), "best")


def labels_of(positive: int, negative: int, cases: int) -> tuple[list[int], list[str]]:
    return [0] * negative + [1] * positive, [f"b{index % cases}" for index in range(positive + negative)]


@pytest.mark.parametrize(
    ("positive", "negative", "cases", "words"),
    [
        (9, 10, 5, "19 labelled crops are too few"),
        (0, 25, 5, "All 25 labelled crops are not globally sclerotic"),
        (25, 0, 5, "All 25 labelled crops are globally sclerotic"),
        (2, 30, 5, "3 of each are needed"),
        (30, 2, 5, "3 of each are needed"),
        (10, 20, 2, "come from 2 biopsies"),
        (10, 20, 1, "come from 1 biopsy"),
    ],
)
def test_labels_that_cannot_carry_it_are_refused(positive: int, negative: int, cases: int, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as refused:
        check_labels(*labels_of(positive, negative, cases))
    assert "glomedge label" in str(refused.value)
    assert len(str(refused.value)) < 500


def test_the_fewest_labels_that_are_taken() -> None:
    check_labels(*labels_of(3, 17, 3))


# --- the whole way: a site is drawn, crops are labelled, the model is recalibrated, biopsies are counted ------------


@pytest.fixture(scope="module")
def nights() -> list[tuple[DrawnSite, Recalibrated]]:
    """90 sites, recalibrated with 20 to 50 labels each."""
    sites = [draw_site(seed) for seed in range(90)]
    return [(site, recalibrate(site.labelled(20 + 7 * seed % 31, seed))) for seed, site in enumerate(sites)]


def inside(value: float, low: float, high: float) -> bool:
    return low - 1e-9 <= value <= high + 1e-9


def test_printed_intervals_of_the_percentage_hold(nights: list[tuple[DrawnSite, Recalibrated]]) -> None:
    """At least 93% of the 95% intervals hold the truth: the crops' labels, and the kidney that they come from.

    Counted before recalibration, or with intervals that take the calls for the truth, they do not: so the test can
    fail, and what makes them hold is the site's counts. That cases.csv prints these intervals, and that the commands
    take this way, is held by ``tests/runs/test_intervals_hold.py``.
    """
    held: dict[str, list[bool]] = {name: [] for name in ("labels", "kidney", "uncorrected", "before")}
    for site, found in nights:
        cases = np.array(site.cases)
        calls = found.line.probabilities(site.logits) >= found.threshold
        for case in sorted(set(site.cases)):
            chosen = cases == case
            positive, total = int(calls[chosen].sum()), int(chosen.sum())
            truth = float(site.labels[chosen].mean())
            corrected = rogan_gladen(positive, total, found.operating_point)
            # None, where no interval is printed, counts as one that does not hold.
            for name, value in (("labels", truth), ("kidney", site.prevalence[case])):
                held[name].append(corrected is not None and inside(value, corrected.low, corrected.high))
            held["uncorrected"].append(inside(truth, *wilson_interval(positive, total)))
            held["before"].append(inside(truth, *wilson_interval(int((site.logits[chosen] >= 0).sum()), total)))
    share = {name: float(np.mean(values)) for name, values in held.items()}
    assert len(held["labels"]) == 90 * 12
    assert share["labels"] >= 0.93, share
    assert share["kidney"] >= 0.93, share
    assert share["uncorrected"] < 0.93, share
    assert share["before"] < 0.8, share


def test_recalibration_never_costs_much_and_gains_on_shifted_sites(
    nights: list[tuple[DrawnSite, Recalibrated]],
) -> None:
    gains, shifted = [], []
    for site, found in nights:
        before, after = accuracies(site, found)
        gains.append(after - before)
        if before < 0.9:
            shifted.append(after)
    assert min(gains) > -0.04
    assert np.mean(gains) > 0.03
    assert len(shifted) > 10
    assert np.mean(shifted) > 0.92
