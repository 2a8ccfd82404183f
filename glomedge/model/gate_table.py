"""The gate table: what was measured at export, compared with the limits stored beside it in the spec.

Made from ``Parity`` alone, so that export, model card and reports show the same table.
"""

from __future__ import annotations

from dataclasses import dataclass

from glomedge.model.spec import Parity

# Relative difference between the mean of ``activation`` and the logit: rounding of a sum of 49 floats, with room.
MAX_LOGIT_RELATIVE_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class GateRow:
    """One line of the gate table.

    Attributes:
        name: what was measured.
        measured: the figure; None where it could not be measured (``note`` says why).
        limit: the limit; None where the figure is only reported.
        passed: whether the file may pass.
        note: unit and counts, for people.
    """

    name: str
    measured: float | None
    limit: float | None
    passed: bool
    note: str = ""


def table(parity: Parity) -> list[GateRow]:
    """Compare the measurements with ``parity.limits``; one row each, in a fixed order."""
    limits = parity.limits
    rows = [
        _most(
            "largest absolute difference of probability",
            parity.max_probability_difference,
            limits.max_probability_difference,
            f"mean {parity.mean_probability_difference:.2g}",
        ),
        _most(
            "flipped decisions, fraction",
            parity.flips / parity.crops,
            limits.max_flip_fraction,
            f"{parity.flips} of {parity.crops} crops",
        ),
    ]
    if parity.max_logit_relative_difference is not None:
        rows.append(
            _most(
                "mean of activation against the logit, relative",
                parity.max_logit_relative_difference,
                MAX_LOGIT_RELATIVE_DIFFERENCE,
            )
        )
    if parity.auroc is not None and parity.auroc_reference is not None:
        loss = parity.auroc_reference - parity.auroc
        note = f"{parity.auroc_reference:.4f} -> {parity.auroc:.4f}"
        rows.append(_most("AUROC loss", max(0.0, loss), limits.max_auroc_loss, note))
    else:
        rows.append(GateRow("AUROC loss", None, limits.max_auroc_loss, True, "not measured: one class only"))
    if parity.grades_changed is not None and parity.cases:
        rows.append(
            _most(
                "Remuzzi grades changed, fraction of biopsies",
                parity.grades_changed / parity.cases,
                limits.max_grade_change_fraction,
                f"{parity.grades_changed} of {parity.cases} biopsies",
            )
        )
        rows.append(GateRow("largest shift of %GS, points", parity.max_percent_gs_shift, None, True, "reported"))
    if parity.min_map_rank_correlation is not None:
        limit = limits.min_map_rank_correlation
        good = limit is None or parity.min_map_rank_correlation >= limit
        rows.append(GateRow("rank correlation of the map, at least", parity.min_map_rank_correlation, limit, good))
    return rows


def _most(name: str, measured: float, limit: float | None, note: str = "") -> GateRow:
    # `not >` would let NaN pass.
    return GateRow(name, measured, limit, limit is None or measured <= limit, note)
