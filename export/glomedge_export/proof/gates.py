"""The gates: how far the answers of a file may differ from its reference before it is refused.

A float32 file must give the same answers as Keras; float16 and int8 may differ, but not in what matters for a biopsy.
Every limit can be loosened or tightened by hand (``--gate-*``); what was used is kept in the spec.
"""

from __future__ import annotations

from glomedge.errors import GateError, UsageError
from glomedge.model.gate_table import GateRow, table
from glomedge.model.spec import GateLimits, Parity, Precision

DEFAULT_LIMITS: dict[Precision, GateLimits] = {
    "fp32": GateLimits(
        max_probability_difference=1e-5,
        max_flip_fraction=0.0,
        max_auroc_loss=0.001,
        max_grade_change_fraction=0.0,
        min_map_rank_correlation=0.999,
    ),
    "fp16": GateLimits(
        max_probability_difference=5e-3,
        max_flip_fraction=0.001,
        max_auroc_loss=0.005,
        max_grade_change_fraction=0.0,
        min_map_rank_correlation=0.99,
    ),
    "int8": GateLimits(
        max_probability_difference=None,
        max_flip_fraction=0.005,
        max_auroc_loss=0.005,
        max_grade_change_fraction=0.02,
        min_map_rank_correlation=0.95,
    ),
}


def limits_for(precision: Precision, overrides: dict[str, float | None] | None = None) -> GateLimits:
    """The default limits of a precision with those given by hand put in their place (None switches one off).

    Raises:
        UsageError: a limit that is negative, above 1, or not one of the gates.
    """
    values = DEFAULT_LIMITS[precision].model_dump()
    for name, value in (overrides or {}).items():
        if name not in values:
            raise UsageError(f"There is no gate {name!r}. Choose one of {', '.join(sorted(values))}.")
        if value is not None and not 0.0 <= value <= 1.0:
            raise UsageError(f"The gate {name} is {value}, outside 0 to 1. Give a fraction such as 0.005.")
        values[name] = value
    return GateLimits(**values)


def float32_limits(precision: Precision, overrides: dict[str, float | None]) -> GateLimits:
    """Limits of the float32 graph against Keras: of the file itself, or of the graph behind a lowered file.

    Behind a lowered file they are the defaults of float32, except where a limit loosened by hand is wider: whoever
    accepts 1e-3 for the file accepts it for the graph it was made from.
    """
    own = limits_for("fp32", overrides if precision == "fp32" else None)
    if precision == "fp32":
        return own
    values = own.model_dump()
    for name, given in overrides.items():
        wider = min if name.startswith("min_") else max
        values[name] = None if given is None else wider(values[name], given)
    return GateLimits(**values)


def enforce(parity: Parity, what: str, advice: str) -> list[GateRow]:
    """The gate table, or GateError naming every gate that refused and what to do.

    Args:
        parity: the measurement, with its limits.
        what: the file in words, for the message.
        advice: what to do, the end of the message.
    """
    rows = table(parity)
    refused = [row for row in rows if not row.passed]
    if refused:
        reasons = "; ".join(f"{row.name}: {row.measured:.3g}, limit {row.limit:.3g}" for row in refused)
        raise GateError(
            f"{what} is refused: it does not give the answers of {parity.reference} on {parity.crops} crops "
            f"({parity.source}). {reasons}. Nothing was written. {advice}"
        )
    return rows


def float32_advice(difference: float, rounding: float) -> str:
    """What to do about a float32 graph that is refused.

    Args:
        difference: largest |difference| of probability to the framework that made the model.
        rounding: the same between two correct float32 runs of the graph (``judge.float32_rounding``).
    """
    # Keras adds in a third order: two orders apart by a fifth of the difference are explanation enough.
    if difference <= 5.0 * rounding:
        return (
            f"Two correct float32 runs of this graph differ by {rounding:.2g}: the model magnifies rounding, as "
            "large weights in the head do. Train with a stronger penalty or fewer epochs, or accept it with "
            f"--gate-probability {2.0 * difference:.1g}."
        )
    return (
        f"Two correct float32 runs of this graph differ by only {rounding:.2g}, so this is not rounding: report it "
        "with the versions that glomedge doctor prints."
    )


def advice(precision: Precision) -> str:
    """What to do about a lowered file that is refused."""
    if precision == "int8":
        return (
            "Calibrate on more crops (--calibration-crops 512), choose --precision fp16 or fp32, or loosen a "
            "gate with --gate-* if you can justify it."
        )
    return "Choose --precision fp32, or loosen a gate with --gate-* if you can justify it."
