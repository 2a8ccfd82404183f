"""Metrics and their bootstrap against scikit-learn and a loop that draws biopsies one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.cases import biopsy_metrics as evaluation
from glomedge.cases.biopsy_metrics import CaseFigures

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def drawn(seed: int = 0, n: int = 240, cases: int = 14) -> tuple[Ints, Floats, npt.NDArray[np.str_]]:
    """Labels, probabilities with many ties, and biopsies of uneven size."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int64)
    probabilities = np.round(np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1), 2).astype(np.float64)
    return labels, probabilities, np.array([f"c{int(k)}" for k in np.minimum(rng.exponential(3, n), cases - 1)])


def naive(labels: Ints, p: Floats, threshold: float) -> dict[str, float]:
    """Every figure for plain (repeated, unweighted) crops, by scikit-learn and by definition."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")

    called = (p >= threshold).astype(int)
    ece = 0.0
    for low in range(10):
        inside = (p >= low / 10) & ((p < (low + 1) / 10) | (low == 9))
        if inside.any():
            ece += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    return {
        "auroc": metrics.roc_auc_score(labels, p),
        "auprc": metrics.average_precision_score(labels, p),
        "accuracy": metrics.accuracy_score(labels, called),
        "sensitivity": metrics.recall_score(labels, called),
        "specificity": metrics.recall_score(1 - labels, 1 - called),
        "f1": metrics.f1_score(labels, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "brier": metrics.brier_score_loss(labels, p),
        "ece": ece,
    }


@pytest.mark.parametrize("seed", range(4))
def test_unweighted_figures_match_scikit_learn(seed: int) -> None:
    labels, p, _ = drawn(seed)
    found = evaluation.weighted_metrics(labels, p, 0.45, np.ones((1, len(labels))))
    assert set(found) == set(evaluation.METRICS)
    for name, value in naive(labels, p, 0.45).items():
        assert found[name][0] == pytest.approx(value, abs=1e-12), name


def test_weights_are_repetitions() -> None:
    labels, p, _ = drawn(7)
    weights = np.random.default_rng(1).integers(0, 4, (5, len(labels)))
    found = evaluation.weighted_metrics(labels, p, 0.5, weights.astype(np.float64))
    for row, counts in enumerate(weights):
        for name, value in naive(np.repeat(labels, counts), np.repeat(p, counts), 0.5).items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name


def test_intervals_match_a_loop_over_drawn_biopsies() -> None:
    labels, p, cases = drawn(2)
    draws = 150
    found = evaluation.metrics_with_intervals(labels, p, cases, 0.5, draws=draws, seed=9)
    names = np.unique(cases)
    _, counts = evaluation.case_weights(cases, draws, 9)
    values: dict[str, list[float]] = {name: [] for name in evaluation.METRICS}
    for row in counts:
        chosen = np.concatenate(
            [np.flatnonzero(cases == name) for name, k in zip(names, row, strict=True) for _ in range(int(k))]
        )
        for name, value in naive(labels[chosen], p[chosen], 0.5).items():
            values[name].append(value)
    for name, drawn_values in values.items():
        low, high = np.percentile(drawn_values, [2.5, 97.5])
        assert found[name].low == pytest.approx(low, abs=1e-12), name
        assert found[name].high == pytest.approx(high, abs=1e-12), name


def test_bootstrap_draws_biopsies_not_crops() -> None:
    # Two biopsies, each all right or all wrong: drawing biopsies must span 0 to 1, drawing crops would not.
    labels = np.array([0, 1] * 50)
    cases = np.array(["right"] * 50 + ["wrong"] * 50)
    p = np.where(cases == "right", labels, 1 - labels).astype(np.float64)
    found = evaluation.metrics_with_intervals(labels, p, cases, 0.5)["accuracy"]
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_counts_draw_as_many_biopsies_as_there_are() -> None:
    _, _, cases = drawn()
    index, counts = evaluation.case_weights(cases, 30, 0)
    names = np.unique(cases)
    assert counts.shape == (30, len(names))
    assert (counts.sum(1) == len(names)).all()
    np.testing.assert_array_equal(names[index], cases)


def test_one_biopsy_has_figures_but_no_interval() -> None:
    labels, p, _ = drawn()
    found = evaluation.metrics_with_intervals(labels, p, np.full(len(labels), "only"), 0.5)
    assert all(interval.low is None and interval.high is None for interval in found.values())
    assert found["auroc"].value == pytest.approx(naive(labels, p, 0.5)["auroc"])


def test_undefined_figures_are_left_out() -> None:
    found = evaluation.metrics_with_intervals(np.zeros(4, np.int64), np.full(4, 0.2), np.array(list("aabb")), 0.5)
    assert "auroc" not in found
    assert "sensitivity" not in found
    assert found["specificity"].value == 1.0


def test_per_case_percentages_and_grades() -> None:
    labels = np.array([1, 0, 0, 0, 0, 0, 1, 1, 0])
    called = np.array([1, 0, 0, 0, 0, 0, 1, 0, 1], bool)
    cases = np.array(["a"] * 6 + ["b"] * 3)
    assert evaluation.per_case(labels, called, cases) == [
        CaseFigures("a", 6, 100 / 6, 100 / 6, 1, 1),
        CaseFigures("b", 3, 200 / 3, 200 / 3, 3, 3),
    ]


def test_case_metrics_are_means_over_biopsies() -> None:
    figures = [CaseFigures("a", 5, 20.0, 40.0, 2, 2), CaseFigures("b", 50, 60.0, 50.0, 3, 2)]
    found = evaluation.case_metrics(figures)
    assert found["percent_gs_mae"].value == pytest.approx(15.0)
    assert (found["percent_gs_mae"].low, found["percent_gs_mae"].high) == (10.0, 20.0)
    assert found["grade_agreement"].value == pytest.approx(0.5)


def test_operating_point_counts() -> None:
    point = evaluation.operating_point(np.array([1, 1, 0, 0, 0]), np.array([1, 0, 1, 0, 0], bool))
    assert (point.true_positive, point.false_negative, point.false_positive, point.true_negative) == (1, 1, 1, 2)
