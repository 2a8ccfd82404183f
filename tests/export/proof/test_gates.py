"""Every gate refuses what is beyond it, lets pass what is not, and can be moved by hand."""

from __future__ import annotations

import pytest

from glomedge.errors import GateError, UsageError
from glomedge.model.gate_table import table
from glomedge.model.spec import GateLimits, Parity, Precision
from glomedge_export.proof import gates


def parity(limits: GateLimits, **changes: float | int | None) -> Parity:
    values: dict[str, object] = {
        "reference": "Keras",
        "crops": 200,
        "cases": 50,
        "source": "held-out crops",
        "max_probability_difference": 1e-6,
        "mean_probability_difference": 1e-7,
        "probability_spread": 0.9,
        "flips": 0,
        "max_logit_relative_difference": 1e-6,
        "auroc_reference": 0.9,
        "auroc": 0.9,
        "max_percent_gs_shift": 0.0,
        "grades_changed": 0,
        "min_map_rank_correlation": 1.0,
        "limits": limits,
    }
    return Parity.model_validate(values | changes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_perfect_file_passes(precision: Precision) -> None:
    rows = gates.enforce(parity(gates.limits_for(precision)), "file", gates.advice(precision))
    assert all(row.passed for row in rows)
    assert len(rows) == 7


@pytest.mark.parametrize(
    ("precision", "changes", "gate"),
    [
        ("fp32", {"max_probability_difference": 1.1e-5}, "difference"),
        ("fp32", {"flips": 1}, "flipped"),
        ("fp32", {"max_logit_relative_difference": 2e-4}, "logit"),
        ("fp32", {"grades_changed": 1}, "Remuzzi"),
        ("fp16", {"max_probability_difference": 6e-3}, "difference"),
        ("fp16", {"flips": 1}, "flipped"),
        ("fp16", {"grades_changed": 1}, "Remuzzi"),
        ("fp16", {"max_logit_relative_difference": 2e-4}, "logit"),
        ("fp32", {"auroc": 0.8989}, "AUROC"),
        ("fp16", {"auroc": 0.8949}, "AUROC"),
        ("fp32", {"min_map_rank_correlation": 0.9989}, "map"),
        ("fp16", {"min_map_rank_correlation": 0.9899}, "map"),
        ("int8", {"flips": 2}, "flipped"),
        ("int8", {"auroc": 0.894}, "AUROC"),
        ("int8", {"grades_changed": 2}, "Remuzzi"),
        ("int8", {"min_map_rank_correlation": 0.94}, "map"),
    ],
)
def test_beyond_a_limit_is_refused(precision: Precision, changes: dict[str, float], gate: str) -> None:
    measured = parity(gates.limits_for(precision), **changes)
    with pytest.raises(GateError, match=gate) as caught:
        gates.enforce(measured, "model.onnx", gates.advice(precision))
    assert "Nothing was written" in str(caught.value)
    assert [row.name for row in table(measured) if not row.passed]


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("int8", {"max_probability_difference": 0.2}),
        ("int8", {"flips": 1, "auroc": 0.896, "grades_changed": 1, "min_map_rank_correlation": 0.95}),
        ("fp16", {"max_probability_difference": 4.9e-3}),
        ("fp16", {"auroc": 0.8951, "min_map_rank_correlation": 0.99}),
        ("fp32", {"auroc": 0.8991, "min_map_rank_correlation": 0.999}),
        ("int8", {"auroc": 0.95}),
        ("int8", {"auroc": None, "auroc_reference": None}),
    ],
)
def test_within_the_limits_passes(precision: Precision, changes: dict[str, float]) -> None:
    gates.enforce(parity(gates.limits_for(precision), **changes), "model.onnx", gates.advice(precision))


def test_limits_by_hand_are_used_and_kept() -> None:
    limits = gates.limits_for("fp32", {"max_probability_difference": 0.5, "max_flip_fraction": None})
    gates.enforce(parity(limits, max_probability_difference=0.4, flips=100), "model.onnx", "Do something.")
    assert limits.max_flip_fraction is None
    tight = gates.limits_for("int8", {"max_flip_fraction": 0.0})
    with pytest.raises(GateError):
        gates.enforce(parity(tight, flips=1), "model.onnx", "Do something.")


@pytest.mark.parametrize("name, value", [("max_flip_fraction", -0.1), ("max_flip_fraction", 1.5), ("max_wit", 0.1)])  # noqa: PT006
def test_impossible_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError):
        gates.limits_for("int8", {name: value})


def test_float32_limits_behind_a_lowered_file_follow_what_was_loosened_by_hand() -> None:
    default = gates.limits_for("fp32")
    assert gates.float32_limits("int8", {}) == default
    assert gates.float32_limits("fp32", {"max_probability_difference": 1e-7}).max_probability_difference == 1e-7
    # Tightened for the lowered file: the graph behind it keeps its own limit. Loosened: it follows.
    tight = gates.float32_limits("fp16", {"max_probability_difference": 1e-7, "min_map_rank_correlation": 1.0})
    assert tight == default
    loose = gates.float32_limits("int8", {"max_probability_difference": 1e-3, "min_map_rank_correlation": 0.5})
    assert loose.max_probability_difference == 1e-3
    assert loose.min_map_rank_correlation == 0.5
    assert loose.max_flip_fraction == default.max_flip_fraction
    assert gates.float32_limits("int8", {"max_probability_difference": None}).max_probability_difference is None


def test_float32_advice_tells_rounding_from_a_wrong_graph() -> None:
    assert "--gate-probability 2e-05" in gates.float32_advice(1.2e-5, 8e-6)
    assert "is not rounding" in gates.float32_advice(3.5e-3, 2e-6)
    assert "is not rounding" in gates.float32_advice(float("nan"), 2e-6)
