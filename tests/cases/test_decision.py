"""Temperature and threshold against brute force."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.cases.decision import choose_threshold, cross_entropy, fit_temperature, parse_rule, sigmoid
from glomedge.errors import UsageError

Floats = npt.NDArray[np.float64]


def drawn(seed: int = 0, true_temperature: float = 2.5, n: int = 4000) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Logits that are overconfident by a known factor."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(-1, 1.5, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-honest))).astype(np.int64)
    return honest * true_temperature, labels


def test_sigmoid_and_cross_entropy_match_the_plain_formulas() -> None:
    logits, labels = drawn(n=200)
    plain = 1 / (1 + np.exp(-logits / 1.7))
    np.testing.assert_allclose(sigmoid(logits, 1.7), plain, rtol=1e-12)
    expected = -np.mean(labels * np.log(plain) + (1 - labels) * np.log(1 - plain))
    assert cross_entropy(logits, labels, 1.7) == pytest.approx(expected, rel=1e-12)
    assert sigmoid([-1e4, 1e4]).tolist() == [0.0, 1.0]
    assert np.isfinite(cross_entropy([-1e4, 1e4], [1, 0]))


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 2.5])
def test_temperature_is_the_grid_minimum_and_recovers_the_truth(true_temperature: float) -> None:
    logits, labels = drawn(1, true_temperature)
    fitted = fit_temperature(logits, labels)
    grid = np.geomspace(0.06, 19, 4000)
    best = grid[np.argmin([cross_entropy(logits, labels, t) for t in grid])]
    assert fitted == pytest.approx(best, rel=0.005)
    assert fitted == pytest.approx(true_temperature, rel=0.1)


def test_temperature_stays_in_range_where_logits_carry_no_scale() -> None:
    assert fit_temperature([-1.0, 1.0], [0, 1]) == pytest.approx(0.05)
    assert fit_temperature([-1.0, 1.0], [1, 0]) == pytest.approx(20.0)


def test_youden_is_the_best_sum() -> None:
    logits, labels = drawn(3, n=300)
    p = sigmoid(logits)
    chosen = choose_threshold("youden", p, labels)

    def youden(threshold: float) -> float:
        called = p >= threshold
        return float(called[labels == 1].mean() - called[labels == 0].mean())

    assert youden(chosen) == pytest.approx(max(youden(t) for t in p))


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95, 0.999])
def test_sensitivity_rule_is_the_highest_threshold_that_reaches_it(wanted: float) -> None:
    logits, labels = drawn(4, n=300)
    p = sigmoid(logits)
    chosen = choose_threshold(f"sensitivity={wanted}", p, labels)
    positives = p[labels == 1]
    assert (positives >= chosen).mean() >= wanted
    higher = p[p > chosen].min()
    next_higher = np.nextafter(higher, 1)
    assert (positives >= next_higher).mean() < wanted


def test_threshold_lies_between_probabilities_not_on_one() -> None:
    chosen = choose_threshold("youden", [0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1])
    assert chosen == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("rule", "value"), [("0.5", 0.5), ("0.25", 0.25), ("youden", None), ("sensitivity=0.95", None)]
)
def test_rules_are_understood(rule: str, value: float | None) -> None:
    assert parse_rule(rule) == value


@pytest.mark.parametrize("rule", ["", "0", "1", "1.5", "nan", "best", "sensitivity=", "sensitivity=1.2", "sensitivity"])
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(UsageError, match="youden"):
        parse_rule(rule)
