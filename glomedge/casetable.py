"""The cases of a run as text: the table on the screen, and the phrases that the report shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from glomedge.cases import CaseSummary


def percent_text(summary: CaseSummary) -> str:
    """``20.0% (8.9-39.1)``, or a dash where nothing was classified."""
    return _interval(summary.percent_gs, summary.interval_low, summary.interval_high)


def corrected_text(summary: CaseSummary) -> str:
    """The same, corrected for sensitivity and specificity; a dash where they are not known."""
    return _interval(summary.corrected_percent_gs, summary.corrected_low, summary.corrected_high)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None or low is None or high is None else f"{value:.1f}% ({low:.1f}-{high:.1f})"


def case_table(cases: Sequence[CaseSummary]) -> Table:
    """Cases as a table for the terminal; the note in the last column marks fewer than 25 glomeruli."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Globally sclerotic (GS) glomeruli by case, 95% intervals", title_justify="left")
    for name in ("case", "slides", "crops", "classified", "flagged", "errors", "GS", "%GS", "corrected", "band"):
        table.add_column(name, justify="left" if name in ("case", "band") else "right", no_wrap=name != "case")
    for summary in cases:
        numbers = (
            summary.slides,
            summary.crops,
            summary.classified,
            summary.flagged,
            summary.errors,
            summary.globally_sclerotic,
        )
        table.add_row(
            Text(summary.case),  # plain: a name may look like markup
            *(str(number) for number in numbers),
            percent_text(summary),
            corrected_text(summary),
            (summary.band or "-") + ("" if summary.adequate else " (n<25)"),
        )
    return table
