"""Agreement of probabilities and calls with labels; numpy only. Proportions come with 95% Wilson intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.prevalence import wilson_interval

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


def auroc(labels: Labels, scores: Scores) -> float | None:
    """Area under the ROC curve, see ``ranking_areas``. None if one class is missing."""
    if not 0 < np.count_nonzero(labels == 1) < len(labels):
        return None
    return float(ranking_areas(labels, scores, np.ones((1, len(labels))))[0][0])


def average_precision(labels: Labels, scores: Scores) -> float | None:
    """Area under the precision-recall curve, see ``ranking_areas``. None if there is no positive."""
    if not np.any(labels == 1):
        return None
    return float(ranking_areas(labels, scores, np.ones((1, len(labels))))[1][0])


def ranking_areas(labels: Labels, scores: Scores, weights: Scores) -> tuple[Scores, Scores]:
    """Areas under the ROC and the precision-recall curve for each row of crop weights.

    The area under the ROC curve is the chance that a positive scores above a negative, ties counting half
    (Mann-Whitney; Hanley & McNeil, Radiology 1982;143:29). The other is average precision: the sum over distinct
    scores of precision times gained recall, without interpolation, which would flatter (Davis & Goadrich, ICML 2006).

    Args:
        labels: ``[N]``, 0 or 1.
        scores: ``[N]``.
        weights: ``[B, N]``, not negative; ones for the plain areas, counts for bootstrap draws.

    Returns:
        Both ``[B]``; NaN if a class has no weight.
    """
    positive_label = labels == 1
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Crops of one score are taken together: their order among themselves is arbitrary.
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive = np.add.reduceat(weights[:, order] * positive_label[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~positive_label[order], starts, axis=1)
    true_positive, false_positive = positive.cumsum(1), negative.cumsum(1)
    positives, negatives = true_positive[:, -1], false_positive[:, -1]
    # A positive beats every negative ranked after its tie group, and half of those inside it.
    wins = (positive * (negatives[:, None] - false_positive + negative / 2)).sum(1)
    precision = true_positive / np.maximum(true_positive + false_positive, 1e-300)
    with np.errstate(invalid="ignore", divide="ignore"):
        return wins / (positives * negatives), (positive * precision).sum(1) / positives


@dataclass(frozen=True)
class Share:
    """``k`` of ``n`` with its Wilson interval; all None if n is 0."""

    k: int
    n: int

    def as_json(self) -> dict[str, Any]:
        """value, low, high, k, n; shares from 0 to 1."""
        low, high = wilson_interval(self.k, self.n) if self.n else (None, None)
        return {"value": self.value, "low": low, "high": high, "k": self.k, "n": self.n}

    @property
    def value(self) -> float | None:
        """k / n."""
        return self.k / self.n if self.n else None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined (no such crop)"
        low, high = wilson_interval(self.k, self.n)
        return f"{self.value:.4f} ({low:.4f}-{high:.4f}), {self.k} of {self.n}"


@dataclass(frozen=True)
class Confusion:
    """Counts of calls against labels; positive is globally sclerotic."""

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int

    @staticmethod
    def of(labels: Labels, calls: Labels) -> Confusion:
        """From labels and calls, 0 or 1, ``[N]`` each."""

        def count(label: int, call: int) -> int:
            return int(((labels == label) & (calls == call)).sum())

        return Confusion(count(1, 1), count(1, 0), count(0, 0), count(0, 1))

    @property
    def accuracy(self) -> Share:
        """Fraction of correct calls."""
        right = self.true_positive + self.true_negative
        return Share(right, right + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> Share:
        """Positives found."""
        return Share(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Share:
        """Negatives left alone."""
        return Share(self.true_negative, self.true_negative + self.false_positive)

    @property
    def precision(self) -> Share:
        """Fraction of positive calls that are correct."""
        return Share(self.true_positive, self.true_positive + self.false_positive)


@dataclass(frozen=True)
class CaseError:
    """One case: %GS by the labels and by the calls, over the same crops."""

    case: str
    crops: int
    percent_gs_labels: float
    percent_gs_calls: float

    @property
    def error(self) -> float:
        """Calls minus labels, in percentage points."""
        return self.percent_gs_calls - self.percent_gs_labels


def case_errors(cases: list[str], labels: Labels, calls: Labels) -> list[CaseError]:
    """%GS of every case by labels and by calls, sorted by case."""
    names = np.array(cases, dtype=object)
    found = []
    for case in sorted(set(cases)):
        chosen = names == case
        found.append(
            CaseError(
                case,
                int(chosen.sum()),
                100.0 * float(labels[chosen].mean()),
                100.0 * float(calls[chosen].mean()),
            )
        )
    return found
