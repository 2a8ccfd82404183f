"""The cases of a run as text: the table on the screen, and the phrases that the report shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from glomedge.cases import CaseSummary

# All columns side by side need this much; narrower terminals get the ones that matter most.
FULL_WIDTH = 116
_NARROW = ("case", "GS", "classified", "%GS", "band")


def percent_text(summary: CaseSummary) -> str:
    """``20.0% (8.9-39.1)``, or a dash where nothing was classified."""
    return _interval(summary.percent_gs, summary.interval_low, summary.interval_high)


def corrected_text(summary: CaseSummary) -> str:
    """The same, corrected for sensitivity and specificity; a dash where they are not known."""
    return _interval(summary.corrected_percent_gs, summary.corrected_low, summary.corrected_high)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None or low is None or high is None else f"{value:.1f}% ({low:.1f}-{high:.1f})"


def case_table(cases: Sequence[CaseSummary], width: int = FULL_WIDTH) -> Table:
    """Cases as a table for a terminal of that many columns; ``n<25`` marks fewer than 25 glomeruli."""
    from rich.table import Table
    from rich.text import Text

    cells = [_cells(summary) for summary in cases]
    corrected = any(row["corrected"] != "-" for row in cells)
    every = ("case", "slides", "crops", "classified", "flagged", "errors", "GS", "%GS", "corrected", "band")
    shown: tuple[str, ...] = every if width >= FULL_WIDTH else _NARROW
    table = Table(title="Globally sclerotic (GS) glomeruli by case, 95% intervals", title_justify="left")
    names = [name for name in shown if name != "corrected" or corrected]
    for name in names:
        left = name in ("case", "band")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "case", overflow="fold")
    for row in cells:
        # Text: plain, for a name may look like markup.
        table.add_row(*(Text(row[name]) for name in names))
    return table


def _cells(summary: CaseSummary) -> dict[str, str]:
    return {
        "case": summary.case,
        "slides": str(summary.slides),
        "crops": str(summary.crops),
        "classified": str(summary.classified),
        "flagged": str(summary.flagged),
        "errors": str(summary.errors),
        "GS": str(summary.globally_sclerotic),
        "%GS": percent_text(summary),
        "corrected": corrected_text(summary),
        "band": (summary.band or "-") + ("" if summary.adequate else " (n<25)"),
    }
