"""The cases of a run as text: the table on the screen, and the phrases that the report shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from glomedge.cases import CaseSummary

_COLUMNS = ("case", "slides", "crops", "classified", "flagged", "errors", "GS", "%GS", "corrected", "band")
# What goes first where the terminal is too narrow for all; the rest stands in cases.csv.
_DISPENSABLE = ("slides", "errors", "flagged", "crops", "corrected")
# Longer case names are folded rather than let the figures go.
_MAX_CASE_WIDTH = 24


def percent_text(summary: CaseSummary) -> str:
    """``20.0% (8.9-39.1)``, or a dash where nothing was classified."""
    return _interval(summary.percent_gs, summary.interval_low, summary.interval_high)


def corrected_text(summary: CaseSummary) -> str:
    """The same, corrected for sensitivity and specificity; a dash where they are not known."""
    return _interval(summary.corrected_percent_gs, summary.corrected_low, summary.corrected_high)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None or low is None or high is None else f"{value:.1f}% ({low:.1f}-{high:.1f})"


def case_table(cases: Sequence[CaseSummary], width: int = 120) -> Table:
    """Cases as a table for a terminal of that many columns; ``n<25`` marks fewer than 25 glomeruli."""
    from rich.table import Table
    from rich.text import Text

    cells = [_cells(summary) for summary in cases]
    needed = {name: max([len(name), *(len(row[name]) for row in cells)]) for name in _COLUMNS}
    needed["case"] = max(len("case"), min(needed["case"], _MAX_CASE_WIDTH))
    names = list(_COLUMNS)
    if all(row["corrected"] == "-" for row in cells):
        names.remove("corrected")
    for name in _DISPENSABLE:
        # Two spaces of padding and a rule for each column, and the last rule.
        if sum(needed[shown] + 3 for shown in names) + 1 <= width:
            break
        if name in names:
            names.remove(name)
    table = Table(title="Globally sclerotic (GS) glomeruli by case, 95% intervals", title_justify="left")
    for name in names:
        left = name in ("case", "band")
        # The name of the case is the one thing without which a row says nothing.
        least = needed["case"] if name == "case" else None
        table.add_column(
            name, justify="left" if left else "right", no_wrap=name != "case", overflow="fold", min_width=least
        )
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
