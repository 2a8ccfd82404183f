"""The report that a person reads, and the table of cases on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from glomedge.cases import CaseSummary


def percent_text(summary: CaseSummary) -> str:
    """``20.0% (8.9-39.1)``, or a dash where nothing was classified."""
    if summary.percent_gs is None or summary.interval_low is None or summary.interval_high is None:
        return "-"
    return f"{summary.percent_gs:.1f}% ({summary.interval_low:.1f}-{summary.interval_high:.1f})"


def corrected_text(summary: CaseSummary) -> str:
    """The same, corrected for sensitivity and specificity."""
    if summary.corrected_percent_gs is None or summary.corrected_low is None or summary.corrected_high is None:
        return "-"
    return f"{summary.corrected_percent_gs:.1f}% ({summary.corrected_low:.1f}-{summary.corrected_high:.1f})"


def case_table(cases: Sequence[CaseSummary]) -> Table:
    """Cases as a table for the terminal."""
    from rich.table import Table

    table = Table(title="Cases: globally sclerotic (GS) glomeruli, 95% intervals", title_justify="left")
    for name in ("case", "slides", "crops", "classified", "flagged", "errors", "GS", "%GS", "corrected", "band"):
        table.add_column(name, justify="left" if name in ("case", "band") else "right", no_wrap=name != "case")
    for summary in cases:
        table.add_row(
            summary.case,
            *(
                str(number)
                for number in (
                    summary.slides,
                    summary.crops,
                    summary.classified,
                    summary.flagged,
                    summary.errors,
                    summary.globally_sclerotic,
                )
            ),
            percent_text(summary),
            corrected_text(summary),
            (summary.band or "-") + ("" if summary.adequate else " (under 25)"),
        )
    return table


def write_report(handle, options, model, outcome, rows, spool) -> None:
    handle.write(b"<p>soon</p>")
