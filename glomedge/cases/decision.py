"""From logits to decisions: temperature and threshold, both fitted on validation crops only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glomedge.errors import UsageError

Floats = npt.NDArray[np.float64]

# A temperature outside says that the logits carry no usable scale (all right, all wrong, or a handful of crops).
TEMPERATURE_RANGE = (0.05, 20.0)
_SENSITIVITY_RULE = "sensitivity="
# The spec wants 0 < threshold < 1.
_THRESHOLD_RANGE = (1e-6, 1 - 1e-6)


def sigmoid(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """``1 / (1 + exp(-logit / temperature))`` without overflow, float64."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64) / temperature)))


def cross_entropy(logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float = 1.0) -> float:
    """Mean binary cross-entropy in nats of ``sigmoid(logits / temperature)``."""
    z, y = np.asarray(logits, np.float64) / temperature, np.asarray(labels, np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - y * z))


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature of least validation cross-entropy (Guo et al., ICML 2017:1321).

    The cross-entropy is convex in ``1 / temperature``, so a golden-section search over it finds the minimum.
    Temperature changes neither the order of crops nor decisions at 0.5.
    """
    low, high = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    ratio = (np.sqrt(5.0) - 1) / 2

    def loss(inverse: float) -> float:
        return cross_entropy(logits, labels, 1 / inverse)

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(80):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return float(round(2 / (low + high), 6))


def parse_rule(rule: str) -> float | None:
    """Check a threshold rule: a number, ``youden`` or ``sensitivity=0.95``.

    Returns:
        The number, or None for a rule that is fitted.

    Raises:
        UsageError: anything else.
    """
    if rule == "youden":
        return None
    text = rule.removeprefix(_SENSITIVITY_RULE)
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 < value < 1:
        raise UsageError(
            f"The threshold rule {rule!r} is not understood. Give a number between 0 and 1 such as 0.5, 'youden', or "
            "'sensitivity=0.95'."
        )
    return None if rule.startswith(_SENSITIVITY_RULE) else value


def choose_threshold(
    rule: str, probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """The threshold on calibrated probability that a rule gives on validation crops, or on the labels of a site.

    ``youden`` maximises sensitivity + specificity - 1 (Youden, Cancer 1950;3:32); ``sensitivity=S`` is the highest
    threshold with at least sensitivity S. The threshold is put halfway to the next lower probability, so that a
    rounding error in another runtime does not flip the crop that set it.

    Args:
        rule: see ``parse_rule``.
        probabilities: ``[N]``.
        labels: ``[N]``, 0 or 1; both occur where the rule is fitted.
        weights: ``[N]``, positive; None: all alike.

    Raises:
        UsageError: unknown rule.
    """
    fixed = parse_rule(rule)
    if fixed is not None:
        return fixed
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels) == 1
    w = np.ones_like(p) if weights is None else np.asarray(weights, np.float64)
    candidates = np.unique(p)[::-1]
    sensitivity = np.array([w[y & (p >= t)].sum() for t in candidates]) / w[y].sum()
    if rule == "youden":
        specificity = np.array([w[~y & (p < t)].sum() for t in candidates]) / w[~y].sum()
        chosen = int(np.argmax(sensitivity + specificity))
    else:
        chosen = int(np.argmax(sensitivity >= float(rule.removeprefix(_SENSITIVITY_RULE)) - 1e-12))
    below = candidates[chosen + 1] if chosen + 1 < len(candidates) else 0.0
    return float(np.clip((candidates[chosen] + below) / 2, *_THRESHOLD_RANGE))
