"""The cases of a run as text: the table in the terminal, and the phrases that the report shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from glomedge.cases.summary import CaseSummary

_GS = "GS of\nclassified"
_COLUMNS = ("case", "slides", "crops", "flagged", "errors", _GS, "expected", "%GS", "corrected", "band", "Remuzzi")
# Where the terminal is too narrow for all: two tables, the answer first.
_ANSWER = ("case", _GS, "%GS", "corrected", "band")
_COUNTS = ("case", "slides", "crops", "flagged", "errors", "expected", "Remuzzi")
# Longer case names are folded rather than let the figures go.
_MAX_CASE_WIDTH = 24


def percent_text(summary: CaseSummary) -> str:
    """``20.0% (8.9-39.1)``, or a dash where nothing was classified."""
    return _interval(summary.percent_gs, summary.interval_low, summary.interval_high)


def corrected_text(summary: CaseSummary) -> str:
    """The same, corrected for sensitivity and specificity; a dash if they are unknown."""
    return _interval(summary.corrected_percent_gs, summary.corrected_low, summary.corrected_high)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None or low is None or high is None else f"{value:.1f}% ({low:.1f}-{high:.1f})"


def case_tables(cases: Sequence[CaseSummary], width: int = 120) -> list[Table]:
    """Cases as one table for a terminal of that many columns, or as two if one does not fit.

    Nothing is omitted: in a narrow terminal an interval goes below its percentage. ``n<25`` marks fewer than 25
    glomeruli, ``expected`` is the sum of probabilities, ``Remuzzi`` the glomerular score.
    """
    rows = [_cells(summary) for summary in cases]
    unknown = {"corrected"} if all(row["corrected"] == "-" for row in rows) else set()
    title = "Globally sclerotic (GS) glomeruli by case, 95% intervals"
    names = [name for name in _COLUMNS if name not in unknown]
    if _width(names, rows) <= width:
        return [_table(title, names, rows)]
    answer = [name for name in _ANSWER if name not in unknown]
    if _width(answer, rows) > width:
        rows = [
            {name: cell if name == "case" else cell.replace(" (", "\n(") for name, cell in row.items()} for row in rows
        ]
    return [_table(title, answer, rows), _table("Crops by case", _COUNTS, rows)]


def _longest(name: str, rows: Sequence[dict[str, str]]) -> int:
    found = max(len(line) for text in (name, *(row[name] for row in rows)) for line in text.split("\n"))
    return min(found, _MAX_CASE_WIDTH) if name == "case" else found


def _width(names: Sequence[str], rows: Sequence[dict[str, str]]) -> int:
    """Two spaces of padding and a rule for each column, and the last rule."""
    return sum(_longest(name, rows) + 3 for name in names) + 1


def _table(title: str, names: Sequence[str], rows: Sequence[dict[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in names:
        left = name in ("case", "band")
        # The name of the case is the one thing without which a row says nothing.
        least = _longest(name, rows) if name == "case" else None
        table.add_column(
            name, justify="left" if left else "right", no_wrap=name != "case", overflow="fold", min_width=least
        )
    for row in rows:
        # Text: plain, for a name may look like markup.
        table.add_row(*(Text(row[name]) for name in names))
    return table


def _cells(summary: CaseSummary) -> dict[str, str]:
    score = summary.remuzzi_glomerular_score
    return {
        "case": summary.case,
        "slides": str(summary.slides),
        "crops": str(summary.crops),
        "flagged": str(summary.flagged),
        "errors": str(summary.errors),
        _GS: f"{summary.globally_sclerotic} of {summary.classified}",
        "expected": f"{summary.expected_count:.1f}",
        "%GS": percent_text(summary),
        "corrected": corrected_text(summary),
        "band": (summary.band or "-") + ("" if summary.adequate else " (n<25)"),
        "Remuzzi": "-" if score is None else str(score),
    }
