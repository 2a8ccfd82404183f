"""Measurements against naive references."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import GateError
from glomedge_export.data.export_crops import Crops
from glomedge_export.graph.run import Answers
from glomedge_export.proof import gates, parity

RNG = np.random.default_rng(7)


def crops(count: int) -> Crops:
    labels = (np.arange(count) % 3 == 0).astype(np.int64)
    return Crops(
        np.zeros((count, 224, 224, 3), np.uint8),
        labels,
        tuple(f"case{i % 4}" for i in range(count)),
        tuple(f"{i}.png" for i in range(count)),
        "made up",
    )


def answers(logit: npt.NDArray[np.float64]) -> Answers:
    maps = np.random.default_rng(0).normal(0, 1, (len(logit), 7, 7))
    maps += (logit - maps.mean((1, 2)))[:, None, None]
    return Answers((1 / (1 + np.exp(-logit))).astype(np.float32), maps.astype(np.float32))


def test_rank_correlation_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    a = RNG.normal(0, 1, (5, 7, 7)).astype(np.float32)
    b = (a + RNG.normal(0, 0.5, a.shape)).astype(np.float32)
    expected = [stats.spearmanr(x.reshape(-1), y.reshape(-1)).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(parity.map_rank_correlations(a, b), expected, atol=1e-12)
    flat = np.zeros((1, 7, 7), np.float32)
    assert parity.map_rank_correlations(flat, b[:1])[0] == 1.0
    assert parity.map_rank_correlations(b[:1], flat)[0] == 0.0


def test_biopsy_shift_by_hand() -> None:
    cases = ["a"] * 4 + ["b"] * 2
    reference = np.array([0, 0, 0, 0, 1, 1], bool)
    candidate = np.array([1, 0, 0, 0, 1, 1], bool)
    # Biopsy a goes from 0% (grade 0) to 25% (grade 2), b stays.
    assert parity.biopsy_shift(cases, reference, candidate) == (25.0, 1, 2)
    assert parity.biopsy_shift(cases, reference, reference) == (0.0, 0, 2)


def test_compare_measures_flips_shift_and_maps() -> None:
    set_of = crops(40)
    logit = RNG.normal(0, 2, 40)
    reference = answers(logit)
    same = parity.compare(
        reference,
        reference,
        set_of,
        decision=parity.Decision(0.5),
        limits=gates.limits_for("int8"),
        reference_name="itself",
    )
    assert (same.flips, same.max_probability_difference, same.max_percent_gs_shift) == (0, 0.0, 0.0)
    assert same.min_map_rank_correlation == pytest.approx(1.0)
    assert same.cases == 4
    turned = parity.compare(
        reference,
        answers(-logit),
        set_of,
        decision=parity.Decision(0.5),
        limits=gates.limits_for("int8"),
        reference_name="itself",
    )
    assert turned.flips == 40
    assert turned.auroc == pytest.approx(1 - (turned.auroc_reference or 0))
    with pytest.raises(GateError):
        gates.enforce(turned, "model.onnx", "Do something.")


def test_compare_finds_a_map_that_does_not_average_to_the_logit() -> None:
    set_of = crops(8)
    logit = RNG.normal(0, 1, 8)
    good = answers(logit)
    keras = Answers(good.probability, None, logit)
    assert good.activation is not None
    bad = Answers(good.probability, good.activation + np.float32(0.01))
    limits = gates.limits_for("fp32")
    measure = [
        parity.compare(keras, c, set_of, decision=parity.Decision(0.5), limits=limits, reference_name="Keras")
        for c in (good, bad)
    ]
    assert (measure[0].max_logit_relative_difference or 0) < 1e-5
    assert (measure[1].max_logit_relative_difference or 0) > 1e-4
    with pytest.raises(GateError, match="mean of activation"):
        gates.enforce(measure[1], "model.onnx", "Do something.")


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["probability", "activation"])
def test_nan_and_inf_are_refused(poison: float, where: str) -> None:
    set_of = crops(8)
    good = answers(RNG.normal(0, 1, 8))
    assert good.activation is not None
    probability, activation = good.probability.copy(), good.activation.copy()
    if where == "probability":
        probability[3] = poison
    else:
        activation[3, 2, 2] = poison
    with pytest.raises(GateError, match="NaN or Inf"):
        parity.compare(
            good,
            Answers(probability, activation),
            set_of,
            decision=parity.Decision(0.5),
            limits=gates.limits_for("int8"),
            reference_name="itself",
        )
