"""Percentage and interval of one case as inline SVG, readable without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glomedge.cases import CaseSummary

_LEFT, _WIDTH = 12.0, 276.0


def _x(percent: float) -> float:
    return round(_LEFT + _WIDTH * min(100.0, max(0.0, percent)) / 100.0, 2)


def _whisker(low: float, value: float, high: float, y: float, colour: str, width: float) -> str:
    ends = "".join(f"M{_x(end)} {y - 4}v8" for end in (low, high))
    return (
        f"<path d='M{_x(low)} {y}H{_x(high)}{ends}' stroke='{colour}' stroke-width='{width}' fill='none'/>"
        f"<circle cx='{_x(value)}' cy='{y}' r='{2 + width}' fill='{colour}'/>"
    )


def interval_svg(summary: CaseSummary) -> str:
    """A bar from 0 to 100% with the Wilson interval, and the corrected interval below it where there is one."""
    marks = "".join(
        f"<path d='M{_x(at)} 4V36' stroke='#8c959f' stroke-width='1' stroke-dasharray='{dash}'/>"
        f"<text x='{_x(at)}' y='47' font-size='9' text-anchor='middle' fill='#59636e'>{at}</text>"
        for at, dash in ((0, "0"), (10, "2 2"), (20, "2 2"), (50, "1 4"), (100, "0"))
    )
    if summary.percent_gs is None or summary.interval_low is None or summary.interval_high is None:
        return f"<svg viewBox='0 0 300 50' role=img aria-label='nothing classified'>{marks}</svg>"
    bar = f"<rect x='{_x(0)}' y='8' width='{round(_x(summary.percent_gs) - _x(0), 2)}' height='12' fill='#d9a3bd'/>"
    drawn = _whisker(summary.interval_low, summary.percent_gs, summary.interval_high, 14, "#8b1a4a", 2)
    if summary.corrected_percent_gs is not None and summary.corrected_low is not None:
        assert summary.corrected_high is not None
        drawn += _whisker(summary.corrected_low, summary.corrected_percent_gs, summary.corrected_high, 29, "#2f6690", 1)
    label = f"{summary.percent_gs:.1f} percent, interval {summary.interval_low:.1f} to {summary.interval_high:.1f}"
    return f"<svg viewBox='0 0 300 50' role=img aria-label='{label}'>{bar}{marks}{drawn}</svg>"
