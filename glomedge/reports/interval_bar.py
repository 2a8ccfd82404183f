"""Percentage and interval of one case as inline SVG, readable without colour and at any width.

Places are percentages of the picture's own width: the style sheet may stretch it, text and lines keep their size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary

_BAND_LIMITS = (10, 20)
_TICKS = (0, *_BAND_LIMITS, 50, 100)
_COUNTED_Y, _CORRECTED_Y = 14, 32


def _at(percent: float) -> str:
    return f"{min(100.0, max(0.0, percent)):.2f}%"


def _whisker(low: float, high: float, y: int, kind: str) -> str:
    ends = "".join(f"<line x1='{_at(end)}' x2='{_at(end)}' y1='{y - 5}' y2='{y + 5}'/>" for end in (low, high))
    return f"<g class={kind}><line x1='{_at(low)}' x2='{_at(high)}' y1='{y}' y2='{y}'/>{ends}</g>"


def interval_svg(summary: CaseSummary) -> Markup:
    """A bar from 0 to 100% with the Wilson interval (filled dot), and the corrected interval below it (ring)."""
    corrected = (summary.corrected_percent_gs, summary.corrected_low, summary.corrected_high)
    floor = 28 if None in corrected else 44
    scale = f"<rect class=zone x='{_at(10)}' width='{_at(10)}' y='2' height='{floor - 2}'/>" + "".join(
        f"<line class=tick x1='{_at(at)}' x2='{_at(at)}' y1='2' y2='{floor}'/>"
        f"<text x='{_at(at)}' y='{floor + 12}'>{at}</text>"
        for at in _TICKS
    )
    open_tag = f"<svg class=bar height='{floor + 16}' role=img aria-label="
    if summary.percent_gs is None or summary.interval_low is None or summary.interval_high is None:
        return Markup(f"{open_tag}'nothing classified'>{scale}</svg>")
    drawn = (
        f"<rect class=share x='0' y='{_COUNTED_Y - 7}' width='{_at(summary.percent_gs)}' height='14'/>"
        + _whisker(summary.interval_low, summary.interval_high, _COUNTED_Y, "counted")
        + f"<circle class=counted cx='{_at(summary.percent_gs)}' cy='{_COUNTED_Y}' r='4.5'/>"
    )
    label = f"{summary.percent_gs:.1f} percent, interval {summary.interval_low:.1f} to {summary.interval_high:.1f}"
    value, low, high = corrected
    if value is not None and low is not None and high is not None:
        drawn += (
            _whisker(low, high, _CORRECTED_Y, "corrected")
            + f"<circle class=corrected cx='{_at(value)}' cy='{_CORRECTED_Y}' r='4'/>"
        )
        label += f"; corrected {value:.1f}, interval {low:.1f} to {high:.1f}"
    return Markup(f"{open_tag}'{label}'>{scale}{drawn}</svg>")  # nothing but numbers in it
