"""Figures of merit with 95% intervals bootstrapped over biopsies.

Crops of one biopsy are alike, so drawing crops would give intervals that are too narrow: whole biopsies are drawn
with replacement (cluster bootstrap; Field & Welsh, J R Stat Soc B 2007;69:369). A draw gives each crop a weight (how
often its biopsy was drawn), and every figure is computed for all draws at once from the ``[B, N]`` weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.cases.metrics import ranking_areas
from glomedge.cases.summary import remuzzi_grade
from glomedge.model.spec import Interval, OperatingPoint

Floats = npt.NDArray[np.float64]

BOOTSTRAP_DRAWS = 2000
# Draws are worked through in blocks, so that memory stays at block x crops.
_BLOCK = 200
MIN_CASES_FOR_INTERVAL = 2
CALIBRATION_BINS = 10
METRICS = (
    "auroc",
    "auprc",
    "accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "balanced_accuracy",
    "brier",
    "ece",
)


def weighted_metrics(
    labels: npt.NDArray[np.int64], probabilities: Floats, threshold: float, weights: Floats
) -> dict[str, Floats]:
    """Every figure of ``METRICS`` for each row of weights.

    ``auroc`` and ``auprc`` (average precision) are those of ``glomedge.cases.metrics.ranking_areas``; ``ece``
    is the expected calibration error over ten bins of equal width (Naeini, AAAI 2015:2901) of predicted probability
    against observed fraction.

    Args:
        labels: ``[N]``, 0 or 1.
        probabilities: ``[N]``.
        threshold: called positive at or above it.
        weights: ``[B, N]``, not negative.

    Returns:
        Each ``[B]``; NaN if a figure is undefined (a label without weight).
    """
    y = labels.astype(np.float64)
    called = (probabilities >= threshold).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        tp, fn = weights @ (y * called), weights @ (y * (1 - called))
        fp, tn = weights @ ((1 - y) * called), weights @ ((1 - y) * (1 - called))
        total = weights.sum(1)
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        auroc, auprc = ranking_areas(labels, probabilities, weights)
        return {
            "auroc": auroc,
            "auprc": auprc,
            "accuracy": (tp + tn) / total,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "brier": weights @ (probabilities - y) ** 2 / total,
            "ece": _ece(y, probabilities, weights) / total,
        }


def bin_of(probabilities: Floats) -> npt.NDArray[np.int64]:
    """The calibration bin of each probability, ``[N]``, 0 to 9 (the last bin holds 1.0)."""
    return np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _ece(y: Floats, probabilities: Floats, weights: Floats) -> Floats:
    member = np.eye(CALIBRATION_BINS)[bin_of(probabilities)]
    gap = np.abs((weights * (probabilities - y)) @ member)
    return np.asarray(gap.sum(1))


def case_weights(cases: npt.NDArray[np.str_], draws: int, seed: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """How often each biopsy is drawn.

    Returns:
        The biopsy index of each crop, ``[N]``, in the order of ``np.unique(cases)``, and counts ``[draws, C]``.
    """
    names, index = np.unique(cases, return_inverse=True)
    rng = np.random.default_rng(seed)
    count = len(names)
    return index, rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def _bootstrap(
    of_counts: Callable[[Floats], dict[str, Floats]], counts: Floats, full: dict[str, Floats]
) -> dict[str, Interval]:
    # One biopsy drawn again and again is always itself: that would be an interval of width 0, not certainty.
    enough = counts.shape[1] >= MIN_CASES_FOR_INTERVAL
    blocks = [of_counts(counts[start : start + _BLOCK]) for start in range(0, len(counts), _BLOCK)] if enough else []
    result: dict[str, Interval] = {}
    for name, values in full.items():
        value = float(values[0])
        if not np.isfinite(value):
            continue
        drawn = np.concatenate([block[name] for block in blocks]) if blocks else np.empty(0)
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (None, None)
        result[name] = Interval(
            value=value, low=None if low is None else float(low), high=None if high is None else float(high)
        )
    return result


def metrics_with_intervals(
    labels: npt.NDArray[np.int64],
    probabilities: Floats,
    cases: npt.NDArray[np.str_],
    threshold: float,
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """The figures of ``METRICS`` with percentile intervals over drawn biopsies; undefined ones are left out.

    Draws in which a figure is undefined (no crop of one label) are left out of its interval; there is no interval
    where all crops are of one biopsy. With fewer than some ten biopsies percentile intervals are too narrow.
    """
    probabilities = probabilities.astype(np.float64)
    index, counts = case_weights(cases, draws, seed)

    def of_counts(block: Floats) -> dict[str, Floats]:
        return weighted_metrics(labels, probabilities, threshold, block[:, index])

    full = weighted_metrics(labels, probabilities, threshold, np.ones((1, len(labels))))
    return _bootstrap(of_counts, counts, full)


@dataclass(frozen=True)
class CaseFigures:
    """One biopsy: true against predicted percentage of globally sclerotic glomeruli, and the Remuzzi grades."""

    case: str
    crops: int
    true_percent_gs: float
    predicted_percent_gs: float
    true_grade: int
    predicted_grade: int


def per_case(
    labels: npt.NDArray[np.int64], called: npt.NDArray[np.bool_], cases: npt.NDArray[np.str_]
) -> list[CaseFigures]:
    """Per-biopsy %GS from labels and from decisions, sorted by biopsy."""
    figures: list[CaseFigures] = []
    for case in np.unique(cases):
        here = cases == case
        crops, true, predicted = int(here.sum()), int(labels[here].sum()), int(called[here].sum())
        figures.append(
            CaseFigures(
                str(case),
                crops,
                100 * true / crops,
                100 * predicted / crops,
                remuzzi_grade(true, crops),
                remuzzi_grade(predicted, crops),
            )
        )
    return figures


def case_metrics(figures: list[CaseFigures], *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> dict[str, Interval]:
    """``percent_gs_mae`` (percentage points) and ``grade_agreement`` (fraction of biopsies) with intervals."""
    error = np.array([abs(f.true_percent_gs - f.predicted_percent_gs) for f in figures])
    agrees = np.array([float(f.true_grade == f.predicted_grade) for f in figures])

    def of_counts(counts: Floats) -> dict[str, Floats]:
        total = counts.sum(1)
        return {"percent_gs_mae": counts @ error / total, "grade_agreement": counts @ agrees / total}

    _, counts = case_weights(np.array([f.case for f in figures]), draws, seed)
    return _bootstrap(of_counts, counts, of_counts(np.ones((1, len(figures)))))


def operating_point(labels: npt.NDArray[np.int64], called: npt.NDArray[np.bool_]) -> OperatingPoint:
    """The confusion matrix as counts."""
    positive = labels == 1
    return OperatingPoint(
        true_positive=int((positive & called).sum()),
        false_negative=int((positive & ~called).sum()),
        true_negative=int((~positive & ~called).sum()),
        false_positive=int((~positive & called).sum()),
    )
