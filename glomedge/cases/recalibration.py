"""A classifier's probabilities made right for one site: a slope and an offset on its logit, fitted to labelled crops.

``probability = sigmoid(slope * logit + offset)``, ``logit`` being the model's own after its temperature. These two
numbers are the logistic recalibration of Cox DR, Biometrika 1958;45:562. They change no ranking of crops.

Few labels must not do harm, so the fit is pulled towards the model as it is (shrinkage towards the original model:
Steyerberg EW et al., Stat Med 2004;23:2567), by independent normal priors (weakly informative priors for logistic
regression: Gelman A et al., Ann Appl Stat 2008;2:1360): log slope with mean 0 and standard deviation
``LOG_SLOPE_SD``, offset with mean 0 and standard deviation ``OFFSET_SD``. The prior on the logarithm keeps the slope
positive. The two standard deviations are this project's choice: 95% of the prior lies at slopes of 0.38 to 2.7 and
offsets of -4.9 to 4.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.cases.decision import choose_threshold, parse_rule, sigmoid
from glomedge.errors import DatasetError
from glomedge.model.spec import OperatingPoint

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Covariance = tuple[tuple[float, float], tuple[float, float]]

LOG_SLOPE_SD = 0.5
OFFSET_SD = 2.5
MIN_LABELS = 20
MIN_OF_A_CLASS = 3
MIN_CASES = 3
"""Below these nothing is fitted: what so few crops say of sensitivity and specificity is next to nothing."""

_LARGEST_LOG_SLOPE = 3.0
_STEPS = 100


@dataclass(frozen=True)
class Labelled:
    """Labelled crops of one site.

    Attributes:
        logits: float64 ``[N]``, the model's, after its temperature.
        labels: int64 ``[N]``, 1 globally sclerotic.
        weights: float64 ``[N]``, positive: how many crops of the site each stands for, up to a common factor.
        cases: the biopsy of each crop.
    """

    logits: Floats
    labels: Ints
    weights: Floats
    cases: tuple[str, ...]

    def part(self, chosen: npt.NDArray[np.bool_]) -> Labelled:
        """The chosen crops; ``chosen`` is bool ``[N]``."""
        cases = tuple(case for case, wanted in zip(self.cases, chosen, strict=True) if wanted)
        return Labelled(self.logits[chosen], self.labels[chosen], self.weights[chosen], cases)


@dataclass(frozen=True)
class Line:
    """The fitted slope and offset, and the covariance of (slope, offset) by Laplace's approximation."""

    slope: float
    offset: float
    covariance: Covariance

    def probabilities(self, logits: npt.ArrayLike) -> Floats:
        """``sigmoid(slope * logit + offset)``, float64, of the shape of ``logits``."""
        return sigmoid(self.slope * np.asarray(logits, np.float64) + self.offset)


@dataclass(frozen=True)
class Recalibrated:
    """What the labels of a site give.

    Attributes:
        line: fitted to all of them.
        threshold: on the recalibrated probability, by the rule.
        calls: int64 ``[N]``, what each crop is called by a line and a threshold fitted without its biopsy.
        operating_point: the counts of these calls, weighted.
    """

    line: Line
    threshold: float
    calls: Ints
    operating_point: OperatingPoint


def check_labels(labels: Sequence[int] | Ints, of_cases: Sequence[str]) -> None:
    """Refuse labels (0 or 1, ``[N]``) and their biopsies (``[N]``) that cannot carry a fit. Raises DatasetError."""
    count, positive, cases = len(labels), int(np.sum(labels)), len(set(of_cases))
    advice = "Label more crops, for example those of: glomedge label DIR --model MODEL -n 50"
    if count < MIN_LABELS:
        raise DatasetError(f"{count} labelled crops are too few to recalibrate with: {MIN_LABELS} are needed. {advice}")
    if positive in (0, count):
        which = "globally sclerotic" if positive else "not globally sclerotic"
        raise DatasetError(
            f"All {count} labelled crops are {which}; both kinds are needed, {MIN_OF_A_CLASS} of each. {advice}"
        )
    if min(positive, count - positive) < MIN_OF_A_CLASS:
        raise DatasetError(
            f"Of {count} labelled crops {positive} are globally sclerotic and {count - positive} are not: "
            f"{MIN_OF_A_CLASS} of each are needed. {advice}"
        )
    if cases < MIN_CASES:
        raise DatasetError(
            f"The labelled crops come from {cases} biops{'y' if cases == 1 else 'ies'}; at least {MIN_CASES} are "
            f"needed to measure with one left out. {advice} If their names were misread, give --case-pattern."
        )


def effective_size(weights: Floats) -> float:
    """How many crops of equal weight would be as informative: ``(sum w)^2 / sum w^2`` (Kish L, Survey Sampling, 1965).

    0 for no crops.
    """
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def fit_line(crops: Labelled) -> Line:
    """Slope and offset of greatest penalised likelihood (the mode of the posterior), by damped Newton steps.

    Weights are scaled to sum to their effective size, so that unequal ones do not outweigh the prior.
    """
    x, y = crops.logits, crops.labels.astype(np.float64)
    weights = crops.weights * (effective_size(crops.weights) / crops.weights.sum())
    at = np.zeros(2)  # log slope, offset
    loss, gradient, hessian = _penalised(at, x, y, weights)
    for _ in range(_STEPS):
        step = np.linalg.solve(_positive_definite(hessian), gradient)
        scale = 1.0
        while scale > 1e-8:
            trial = at - scale * step
            trial[0] = np.clip(trial[0], -_LARGEST_LOG_SLOPE, _LARGEST_LOG_SLOPE)
            new = _penalised(trial, x, y, weights)
            if new[0] <= loss:
                break
            scale /= 2
        else:
            break
        moved = float(np.abs(trial - at).max())
        at, (loss, gradient, hessian) = trial, new
        if moved < 1e-10:
            break
    slope = math.exp(at[0])
    # From (log slope, offset) to (slope, offset), to first order.
    turn = np.diag([slope, 1.0])
    covariance = turn @ np.linalg.inv(_positive_definite(hessian)) @ turn
    rows = tuple((float(row[0]), float(row[1])) for row in covariance)
    return Line(slope, float(at[1]), (rows[0], rows[1]))


def _penalised(at: Floats, x: Floats, y: Floats, weights: Floats) -> tuple[float, Floats, Floats]:
    """The penalised negative log likelihood at (log slope, offset), its gradient and its second derivatives."""
    slope = math.exp(at[0])
    z = slope * x + at[1]
    p = sigmoid(z)
    loss = float((weights * (np.logaddexp(0.0, z) - y * z)).sum())
    loss += float(at[0] ** 2 / (2 * LOG_SLOPE_SD**2) + at[1] ** 2 / (2 * OFFSET_SD**2))
    change = np.stack([slope * x, np.ones_like(x)])  # of z with (log slope, offset)
    residual = weights * (p - y)
    gradient = change @ residual + at / np.array([LOG_SLOPE_SD**2, OFFSET_SD**2])
    hessian = (change * (weights * p * (1 - p))) @ change.T
    hessian[0, 0] += float((residual * slope * x).sum())
    hessian += np.diag([1 / LOG_SLOPE_SD**2, 1 / OFFSET_SD**2])
    return loss, gradient, hessian


def _positive_definite(hessian: Floats) -> Floats:
    """The matrix with its eigenvalues made positive: away from the mode the curvature along log slope may be none."""
    values, vectors = np.linalg.eigh(hessian)
    return np.asarray((vectors * np.maximum(np.abs(values), 1e-6)) @ vectors.T)


def recalibrate(crops: Labelled, rule: str = "0.5") -> Recalibrated:
    """Line, threshold and counts from the labels of a site.

    Args:
        crops: at least as many as ``check_labels`` asks for.
        rule: see ``decision.choose_threshold``; it sees the recalibrated probabilities and the weights. Where leaving
            a biopsy out leaves one class, no threshold can be fitted, and its crops are called at the rule's number or
            else at 0.5.

    Raises:
        DatasetError: as ``check_labels``.
        UsageError: the rule is not known.
    """
    check_labels(crops.labels, crops.cases)
    line = fit_line(crops)
    threshold = choose_threshold(rule, line.probabilities(crops.logits), crops.labels, crops.weights)
    calls = np.zeros(len(crops.labels), np.int64)
    cases = np.array(crops.cases, dtype=object)
    for case in sorted(set(crops.cases)):
        out = cases == case
        rest = crops.part(~out)
        without = fit_line(rest)
        # Never the threshold of all crops: it has seen this biopsy.
        limit = parse_rule(rule) or 0.5
        if 0 < rest.labels.sum() < len(rest.labels):
            limit = choose_threshold(rule, without.probabilities(rest.logits), rest.labels, rest.weights)
        calls[out] = without.probabilities(crops.logits[out]) >= limit
    return Recalibrated(line, threshold, calls, _counts(crops, calls))


def _counts(crops: Labelled, calls: Ints) -> OperatingPoint:
    """Weighted sensitivity and specificity as whole counts out of each class's effective size, rounded down."""

    def of(label: int) -> tuple[int, int]:
        chosen = crops.labels == label
        weights = crops.weights[chosen]
        total = max(1, math.floor(effective_size(weights) + 1e-9))
        right = float(weights[calls[chosen] == label].sum() / weights.sum())
        hits = round(right * total)
        return hits, total - hits

    true_positive, false_negative = of(1)
    true_negative, false_positive = of(0)
    return OperatingPoint(
        true_positive=true_positive,
        false_negative=false_negative,
        true_negative=true_negative,
        false_positive=false_positive,
    )


def of_crops(
    logits: Sequence[float], labels: Sequence[int], weights: Sequence[float], cases: Sequence[str]
) -> Labelled:
    """``Labelled`` from plain sequences of one length."""
    return Labelled(
        np.asarray(logits, np.float64), np.asarray(labels, np.int64), np.asarray(weights, np.float64), tuple(cases)
    )
