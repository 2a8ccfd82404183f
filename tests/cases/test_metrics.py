from __future__ import annotations

import numpy as np
import pytest

from glomedge.cases.metrics import Confusion, Share, auroc, average_precision, case_errors, ranking_areas


def _naive_auroc(labels: list[int], scores: list[float]) -> float:
    """Every pair of a positive and a negative, one by one."""
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, lp in zip(scores, labels, strict=True)
        for n, ln in zip(scores, labels, strict=True)
        if lp == 1 and ln == 0
    ]
    return sum(pairs) / len(pairs)


def _naive_average_precision(labels: list[int], scores: list[float]) -> float:
    """Every distinct score as a threshold, from the top."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        recall = sum(called) / sum(labels)
        total += sum(called) / len(called) * (recall - before)
        before = recall
    return total


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_naive_counting(levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 80)
    labels[:2] = 0, 1
    scores = np.round((rng.random(80) + 0.3 * labels) * levels) / levels
    assert auroc(labels, scores) == pytest.approx(_naive_auroc(labels.tolist(), scores.tolist()), abs=1e-12)
    expected = _naive_average_precision(labels.tolist(), scores.tolist())
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_areas_equal_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 500)
    scores = np.asarray(np.round(rng.random(500) + 0.5 * labels, 1), np.float64)
    assert auroc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(
        sklearn.average_precision_score(labels, scores), abs=1e-12
    )


def test_weights_count_crops_several_times() -> None:
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 40), np.round(rng.random(40), 1)
    counts = rng.integers(0, 4, (3, 40))
    counts[2] = labels  # no weight on the negatives
    roc, precision_recall = ranking_areas(labels, scores, counts.astype(np.float64))
    for row in range(2):
        drawn = np.repeat(np.arange(40), counts[row])
        assert roc[row] == pytest.approx(_naive_auroc(labels[drawn].tolist(), scores[drawn].tolist()))
        expected = _naive_average_precision(labels[drawn].tolist(), scores[drawn].tolist())
        assert precision_recall[row] == pytest.approx(expected)
    assert np.isnan(roc[2])


def test_one_class_has_no_area() -> None:
    ones = np.ones(3, np.int64)
    scores = np.array([0.1, 0.2, 0.3])
    assert auroc(ones, scores) is None
    assert auroc(0 * ones, scores) is None
    assert average_precision(0 * ones, scores) is None


def test_confusion_and_shares() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    calls = np.array([1, 1, 0, 0, 0, 1, 0, 1])
    confusion = Confusion.of(labels, calls)
    assert confusion == Confusion(true_positive=3, false_negative=1, true_negative=3, false_positive=1)
    assert confusion.accuracy == Share(6, 8)
    assert confusion.sensitivity == Share(3, 4)
    assert confusion.specificity == Share(3, 4)
    assert confusion.precision == Share(3, 4)
    # Wilson 95% of 5 in 25: 8.9 to 39.1%
    assert str(Share(5, 25)) == "0.2000 (0.0886-0.3913), 5 of 25"
    assert Share(0, 0).as_json() == {"value": None, "low": None, "high": None, "k": 0, "n": 0}


def test_case_errors() -> None:
    found = case_errors(["b", "a", "a", "b", "a", "a"], np.array([1, 1, 0, 0, 0, 0]), np.array([0, 1, 1, 0, 0, 0]))
    assert [(c.case, c.crops, c.percent_gs_labels, c.percent_gs_calls, c.error) for c in found] == [
        ("a", 4, 25.0, 50.0, 25.0),
        ("b", 2, 50.0, 0.0, -50.0),
    ]
