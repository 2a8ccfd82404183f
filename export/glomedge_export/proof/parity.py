"""Two runs of one model, compared on the answers that matter: crops, biopsies, maps.

The reference is the framework that made the model for the float32 file, and the float32 graph for the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.metrics import auroc
from glomedge.errors import GateError
from glomedge.model.spec import GateLimits, Parity
from glomedge_export.data.export_crops import Crops
from glomedge_export.graph.run import Answers, Floats


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Ranks from 1, ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[inverse]


def map_rank_correlations(reference: Floats, candidate: Floats) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of each crop's map, ``[N]``; 1 where the reference map is flat."""
    correlations = np.ones(len(reference))
    for index, (a, b) in enumerate(zip(reference, candidate, strict=True)):
        x, y = _ranks(a.reshape(-1)), _ranks(b.reshape(-1))
        x, y = x - x.mean(), y - y.mean()
        scale = math.sqrt(float(x @ x) * float(y @ y))
        if float(x @ x) > 0.0:
            correlations[index] = float(x @ y) / scale if scale > 0.0 else 0.0
    return correlations


def biopsy_shift(
    cases: Sequence[str], reference: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_]
) -> tuple[float, int, int]:
    """Per-biopsy answer: largest shift of %GS in points, Remuzzi grades changed, number of biopsies."""
    from glomedge.cases.summary import remuzzi_grade

    counts: dict[str, list[int]] = {}
    for case, a, b in zip(cases, reference, candidate, strict=True):
        entry = counts.setdefault(case, [0, 0, 0])
        entry[0] += int(a)
        entry[1] += int(b)
        entry[2] += 1
    shift = max((100.0 * abs(a - b) / n for a, b, n in counts.values()), default=0.0)
    changed = sum(remuzzi_grade(a, n) != remuzzi_grade(b, n) for a, b, n in counts.values())
    return shift, changed, len(counts)


def check_finite(answers: Answers, what: str) -> None:
    """Raises GateError where an answer is NaN or Inf."""
    bad = ~np.isfinite(answers.probability)
    if answers.activation is not None:
        bad |= ~np.isfinite(answers.activation).all(axis=(1, 2))
    if bad.any():
        raise GateError(
            f"{what} is refused: {int(bad.sum())} of {len(bad)} answers are NaN or Inf. Nothing was written. "
            "Choose --precision fp32, or train the model again."
        )


@dataclass(frozen=True)
class Decision:
    """How a logit becomes a call.

    Attributes:
        threshold: label 1 where probability is at or above it.
        temperature: probability is sigmoid(logit / temperature).
    """

    threshold: float
    temperature: float = 1.0


def compare(
    reference: Answers,
    candidate: Answers,
    crops: Crops,
    *,
    decision: Decision,
    limits: GateLimits,
    reference_name: str,
) -> Parity:
    """Measure everything the gates look at.

    Args:
        reference: answers of the reference on ``crops``.
        candidate: answers of the file on ``crops``; with its activation map where it has one.
        crops: the crops, with labels and biopsies.
        decision: threshold and temperature of the model.
        limits: kept with the figures.
        reference_name: in words.

    Raises:
        GateError: the candidate is NaN or Inf anywhere.
    """
    check_finite(candidate, "The exported file")
    difference = np.abs(candidate.probability.astype(np.float64) - reference.probability.astype(np.float64))
    calls = reference.probability >= decision.threshold, candidate.probability >= decision.threshold
    shift, changed, cases = biopsy_shift(crops.cases, *calls)
    correlation = None
    logit_difference = None
    if candidate.activation is not None:
        mean = candidate.activation.astype(np.float64).mean(axis=(1, 2))
        if reference.logit is not None:
            logit_difference = float(np.max(np.abs(mean - reference.logit) / np.maximum(np.abs(reference.logit), 1.0)))
        else:
            # The file against itself: its map must average to the logit behind its own probability.
            logit_difference = float(np.max(_logit_error(candidate.probability, mean, decision.temperature)))
        if reference.activation is not None:
            correlation = float(map_rank_correlations(reference.activation, candidate.activation).min())
    return Parity(
        reference=reference_name,
        crops=len(crops),
        cases=cases,
        source=crops.source,
        max_probability_difference=float(difference.max()),
        mean_probability_difference=float(difference.mean()),
        probability_spread=float(np.ptp(reference.probability)),
        flips=int(np.count_nonzero(calls[0] != calls[1])),
        max_logit_relative_difference=logit_difference,
        auroc_reference=auroc(crops.labels, reference.probability.astype(np.float64)),
        auroc=auroc(crops.labels, candidate.probability.astype(np.float64)),
        max_percent_gs_shift=shift,
        grades_changed=changed,
        min_map_rank_correlation=correlation,
        limits=limits,
    )


def _logit_error(
    probability: Floats, mean_activation: npt.NDArray[np.float64], temperature: float
) -> npt.NDArray[np.float64]:
    """|sigmoid(mean activation / temperature) - probability|: comparable where the sigmoid saturates as well."""
    return np.abs(1.0 / (1.0 + np.exp(-mean_activation / temperature)) - probability.astype(np.float64))
