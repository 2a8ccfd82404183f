"""The report's pictures: the points drawn are right, the bytes repeat, odd data do not break them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from glomedge.cases.biopsy_metrics import CaseFigures
from glomedge_export.training import page, plots
from glomedge_export.training.checkpoint import EpochRow

LABELS = np.array([0, 0, 1, 0, 1, 1, 0, 1], np.int64)
PROBABILITIES = np.array([0.1, 0.3, 0.3, 0.2, 0.9, 0.6, 0.6, 1.0])


def test_rates_match_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve, roc_curve

    fpr, tpr, precision = plots._rates(LABELS, PROBABILITIES)
    expected_fpr, expected_tpr, _ = roc_curve(LABELS, PROBABILITIES, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr)
    np.testing.assert_allclose(tpr, expected_tpr)
    expected_precision, expected_recall, _ = precision_recall_curve(LABELS, PROBABILITIES)
    np.testing.assert_allclose(precision, expected_precision[::-1])
    np.testing.assert_allclose(tpr, expected_recall[::-1])


@pytest.mark.parametrize("epochs", [1, 7])
def test_pictures_are_drawn_and_repeat(epochs: int) -> None:
    history = [EpochRow(i, 1 / i, 0.8, 0.9 / i, 0.7, 1.0) for i in range(1, epochs + 1)]
    cases = [CaseFigures("a", 3, 20.0, 35.0, 2, 2), CaseFigures("b", 30, 0.0, 0.0, 0, 0)]
    draw: list[Callable[[], bytes]] = [
        lambda: plots.curves_png(history, 1),
        lambda: plots.ranking_png(LABELS, PROBABILITIES, 0.5),
        lambda: plots.ranking_png(LABELS, PROBABILITIES, 0.9999 + 1e-4 + 1e-9),  # nothing is called positive
        lambda: plots.reliability_png(LABELS, PROBABILITIES),
        lambda: plots.cases_png(cases),
    ]
    for one in draw:
        first = one()
        pixels = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert pixels.shape[0] > 400
        assert pixels.std() > 5
        assert one() == first


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0.000"),
        (1e-5, "below 0.001"),
        (0.0006, "0.001"),
        (0.4996, "0.500"),
        (0.99999, "above 0.999"),
        (1.0, "1.000"),
    ],
)
def test_no_probability_is_rounded_to_certainty(value: float, words: str) -> None:
    assert page._probability(value) == words
