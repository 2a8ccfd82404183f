"""Proportions: confidence intervals, correction for an imperfect classifier, clinical classes.

Pure Python and ``math``: the edge device needs no SciPy. Proportions are fractions from 0 to 1 here; percentages are
made where people read them (``cases.py``). Every formula names its source; docs/cases.md lists them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from glomedge.model.spec import OperatingPoint

ADEQUATE_GLOMERULI = 25
"""Donor biopsy: at least 25 glomeruli (Wang HJ et al., Nephrol Dial Transplant 1998;13:165)."""

BANFF_GLOMERULI = 10
"""Allograft biopsy, glomerular criterion of Banff 97: at least 10 (Racusen LC et al., Kidney Int 1999;55:713)."""

Band = Literal["0-10%", "11-20%", ">20%"]
RemuzziScore = Literal[0, 1, 2, 3]


def _check_counts(positive: int, total: int) -> None:
    if not 0 <= positive <= total:
        raise ValueError(f"{positive} of {total} is not a proportion")


def _normal_quantile(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(positive: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a binomial proportion, as fractions.

    Wilson EB, J Am Stat Assoc 1927;22:209; without continuity correction. With ``total`` 0 nothing is known: (0, 1).

    Raises:
        ValueError: ``positive`` not in 0..``total``, or ``confidence`` not between 0 and 1.
    """
    _check_counts(positive, total)
    z = _normal_quantile(confidence)
    if total == 0:
        return 0.0, 1.0
    denominator = total + z * z
    centre = (positive + z * z / 2) / denominator
    half = z / denominator * math.sqrt(positive * (total - positive) / total + z * z / 4)
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17 of it.
    low = 0.0 if positive == 0 else max(0.0, centre - half)
    high = 1.0 if positive == total else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Corrected:
    """A prevalence corrected for the classifier's errors, with its interval; fractions, clipped to 0..1."""

    value: float
    low: float
    high: float


def rogan_gladen(
    positive: int, total: int, operating_point: OperatingPoint, confidence: float = 0.95
) -> Corrected | None:
    """True prevalence from a count made by an imperfect classifier whose errors are themselves estimated.

    Point: Rogan WJ, Gladen B, Am J Epidemiol 1978;107:71: ``(p + specificity - 1) / (sensitivity + specificity - 1)``.
    Interval: Lang Z, Reiczigel J, Prev Vet Med 2014;113:13, equations 6, 7 and 16, 17: it widens with the
    uncertainty of p, of the sensitivity and of the specificity, each from its own number of crops.

    Args:
        positive: crops called globally sclerotic, of ``total``.
        total: crops classified.
        operating_point: the classifier's held-out confusion counts.
        confidence: of the interval; the authors checked it from 0.90 to 0.99.

    Returns:
        None if it is undefined: no crops, no held-out positives or negatives, a classifier no better than chance
        (sensitivity + specificity <= 1), or an interval wholly outside 0..1.

    Raises:
        ValueError: as for ``wilson_interval``.
    """
    _check_counts(positive, total)
    z = _normal_quantile(confidence)
    positives = operating_point.true_positive + operating_point.false_negative
    negatives = operating_point.true_negative + operating_point.false_positive
    if not (total and positives and negatives):
        return None
    # Sensitivity + specificity <= 1, in integers so that no rounding lets it pass. First as counted, then with Lang and
    # Reiczigel's pseudo-counts: these weigh more in the smaller class, and may undo a narrow advantage over chance.
    if _no_better_than_chance(operating_point.true_positive, positives, operating_point.false_positive, negatives):
        return None
    if _no_better_than_chance(
        operating_point.true_positive + 1, positives + 2, operating_point.false_positive + 1, negatives + 2
    ):
        return None
    point = _corrected(
        positive / total, operating_point.true_positive / positives, operating_point.true_negative / negatives
    )
    sensitivity = (operating_point.true_positive + 1) / (positives + 2)
    specificity = (operating_point.true_negative + 1) / (negatives + 2)
    apparent = (positive + z * z / 2) / (total + z * z)
    centre = _corrected(apparent, sensitivity, specificity)
    variance_apparent = apparent * (1 - apparent) / (total + z * z)
    variance_sensitivity = sensitivity * (1 - sensitivity) / (positives + 2)
    variance_specificity = specificity * (1 - specificity) / (negatives + 2)
    shift = 2 * z * z * (centre * variance_sensitivity - (1 - centre) * variance_specificity)
    variance = variance_apparent + centre**2 * variance_sensitivity + (1 - centre) ** 2 * variance_specificity
    half = z * math.sqrt(variance) / (sensitivity + specificity - 1)
    low, high = centre + shift - half, centre + shift + half
    if high <= 0 or low >= 1:
        # Clipped, it would read as certainty (0.0 to 0.0). These crops contradict the held-out ones: there are, say,
        # fewer positives than the false ones that the specificity foretells.
        return None
    return Corrected(_clip(point), _clip(low), _clip(high))


def _no_better_than_chance(true_positive: int, positives: int, false_positive: int, negatives: int) -> bool:
    return true_positive * negatives <= false_positive * positives


def _corrected(apparent: float, sensitivity: float, specificity: float) -> float:
    return (apparent + specificity - 1) / (sensitivity + specificity - 1)


def _clip(fraction: float) -> float:
    return min(1.0, max(0.0, fraction))


def band(fraction: float) -> Band:
    """The band of a fraction: up to and including 10%, above 10% up to and including 20%, above 20%.

    The fraction is not rounded first: 10.5% and 10.1% are both ``11-20%``, 20.4% is ``>20%``.

    Raises:
        ValueError: not from 0 to 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"{fraction} is not a fraction from 0 to 1")
    if fraction <= 0.1:
        return "0-10%"
    return "11-20%" if fraction <= 0.2 else ">20%"


def settled_band(low: float, high: float) -> Band | Literal["undetermined"]:
    """The band that holds a whole interval, or ``undetermined`` where the interval straddles a limit."""
    lower, upper = band(low), band(high)
    return lower if lower == upper else "undetermined"


def remuzzi_grade(positive: int, total: int) -> RemuzziScore:
    """Glomerular score: 0 none, 1 under 20%, 2 from 20% to 50%, 3 over 50% globally sclerotic.

    Remuzzi G et al., J Am Soc Nephrol 1999;10:2591. One of four compartments, never a total. In integers, so
    exactly 20% is 2 and exactly 50% is 2.

    Raises:
        ValueError: ``total`` is 0, or ``positive`` not in 0..``total``.
    """
    _check_counts(positive, total)
    if total == 0:
        raise ValueError("no glomeruli, no score")
    if positive == 0:
        return 0
    if 5 * positive < total:
        return 1
    return 2 if 2 * positive <= total else 3
