"""Three plots as inline SVG, without a plotting library (edge devices have none) and without network access."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# Okabe and Ito's palette: told apart with any colour vision (https://jfly.uni-koeln.de/color/).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#555555", "#B8A000", "#999999")
WRONG = "#C00000"
CEILING = "#222222"
WIDTH_PX = 640
"""Narrow, so that 13 px of text stay readable where a phone shrinks the plot."""
_TEXT = 'font-size="13" fill="#222"'
_CHARACTER_PX = 7.2


@dataclass(frozen=True)
class Line:
    """One configuration in a line plot: points ``(x, y, y at the upper end of the whisker)``."""

    name: str
    points: Sequence[tuple[float, float, float]]
    wrong: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar with its interval and an optional mark (the ceiling)."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    mark: float | None = None
    wrong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Stack:
    """One stacked bar: ``parts`` in the order of the legend."""

    name: str
    parts: Sequence[tuple[str, float]]


def line_plot(lines: Sequence[Line], *, x_label: str, y_label: str) -> Markup:
    """Lines on two logarithmic axes, a whisker up to the third value of each point; the legend stands above."""
    points = [point for line in lines for point in line.points]
    entries = [
        (line.name + (" (wrong)" if line.wrong else ""), WRONG if line.wrong else PALETTE[index % len(PALETTE)])
        for index, line in enumerate(lines)
    ]
    legend, top = _legend(entries)
    left, right, bottom = 66, WIDTH_PX - 14, top + 300
    xs = sorted({point[0] for point in points})
    x_low, x_high = math.log2(xs[0]), math.log2(xs[-1])
    y_low = math.log10(min(point[1] for point in points)) - 0.1
    y_high = math.log10(max(point[2] for point in points)) + 0.1

    def x_of(value: float) -> float:
        share = (math.log2(value) - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return left + 24 + share * (right - left - 48)

    def y_of(value: float) -> float:
        return bottom - (math.log10(value) - y_low) / (y_high - y_low) * (bottom - top)

    parts = [*legend, f'<path d="M{left} {top}V{bottom}H{right}" stroke="#888" fill="none"/>']
    for tick in _decades(10**y_low, 10**y_high):
        y = y_of(tick)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" {_TEXT}>{_number(tick)}</text>')
    for tick in xs:
        x = x_of(tick)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#888"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle" {_TEXT}>{tick:g}</text>')
    middle = (left + right) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 42}" text-anchor="middle" {_TEXT}>{escape(x_label)}</text>')
    centre = (top + bottom) / 2
    parts.append(
        f'<text x="16" y="{centre}" text-anchor="middle" transform="rotate(-90 16 {centre})" {_TEXT}>'
        f"{escape(y_label)}</text>"
    )
    for index, (line, (_, colour)) in enumerate(zip(lines, entries, strict=True)):
        # Whiskers of several lines at one batch size would hide each other: each line is moved a little.
        shift = (index - (len(lines) - 1) / 2) * 6
        path = " ".join(f"{x_of(x) + shift:.1f},{y_of(y):.1f}" for x, y, _ in line.points)
        dashed = ' stroke-dasharray="6 4"' if line.wrong else ""  # red alone is lost on some readers
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        for x, y, upper in line.points:
            at = x_of(x) + shift
            parts.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y_of(y):.1f}" y2="{y_of(upper):.1f}" stroke="{colour}"/>'
                f'<circle cx="{at:.1f}" cy="{y_of(y):.1f}" r="4" fill="{colour}"/>'
            )
    return _svg(bottom + 52, parts, f"{y_label} against {x_label}")


def bar_plot(bars: Sequence[Bar], *, x_label: str) -> Markup:
    """Horizontal bars from zero with intervals; a mark stands where the machine's ceiling is."""
    top, step = 10, 40
    names = [bar.name + (" (wrong)" if bar.wrong else "") for bar in bars]
    left, right = _label_px(names), WIDTH_PX - 60
    longest = max(max(bar.value, bar.high or 0.0, bar.mark or 0.0) for bar in bars) or 1.0

    def x_of(value: float) -> float:
        return left + value / longest * (right - left)

    bottom = top + step * len(bars)
    parts = _x_axis(longest, x_of, top, bottom, x_label)
    for index, (name, bar) in enumerate(zip(names, bars, strict=True)):
        y = top + index * step + 8
        colour = WRONG if bar.wrong else PALETTE[0]
        parts.append(_row_label(name, left, y + 16, bar.wrong))
        end = x_of(bar.value)
        parts.append(f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="24" fill="{colour}"/>')
        note = bar.note or _number(bar.value)
        if end - left > 24 + _CHARACTER_PX * len(note):
            parts.append(f'<text x="{left + 8}" y="{y + 17}" font-size="13" fill="#fff">{escape(note)}</text>')
        else:
            parts.append(
                f'<text x="{max(end, x_of(bar.high or 0)) + 8:.1f}" y="{y + 17}" {_TEXT}>{escape(note)}</text>'
            )
        if bar.low is not None and bar.high is not None:
            parts.append(
                f'<path d="M{x_of(bar.low):.1f} {y + 12}H{x_of(bar.high):.1f}M{x_of(bar.low):.1f} {y + 6}v12'
                f'M{x_of(bar.high):.1f} {y + 6}v12" stroke="#222" fill="none"/>'
            )
        if bar.mark is not None:
            mark = x_of(bar.mark)
            parts.append(
                f'<path d="M{mark:.1f} {y - 5}v34" stroke="{CEILING}" stroke-width="2" stroke-dasharray="4 3"/>'
                f'<text x="{mark + 6:.1f}" y="{y + 17}" font-size="12" fill="#555">{_number(bar.mark)}</text>'
            )
    return _svg(bottom + 50, parts, x_label)


def stack_plot(stacks: Sequence[Stack], *, x_label: str) -> Markup:
    """Horizontal stacked bars from zero, with a legend above."""
    names = list(dict.fromkeys(name for stack in stacks for name, value in stack.parts if value > 0))
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    legend, top = _legend(list(colours.items()))
    step, left, right = 40, _label_px([stack.name for stack in stacks]), WIDTH_PX - 50
    longest = max(sum(value for _, value in stack.parts) for stack in stacks) or 1.0

    def x_of(value: float) -> float:
        return left + value / longest * (right - left)

    bottom = top + step * len(stacks)
    parts = [*legend, *_x_axis(longest, x_of, top, bottom, x_label)]
    for index, stack in enumerate(stacks):
        y = top + index * step + 8
        parts.append(_row_label(stack.name, left, y + 16, wrong=False))
        begin = 0.0
        for name, value in stack.parts:
            if value <= 0:
                continue
            width = x_of(begin + value) - x_of(begin)
            parts.append(
                f'<rect x="{x_of(begin):.1f}" y="{y}" width="{width:.1f}" height="24" fill="{colours[name]}" '
                f'stroke="#fff" stroke-width="0.5"><title>{escape(name)} {_number(value)}</title></rect>'
            )
            begin += value
        parts.append(f'<text x="{x_of(begin) + 8:.1f}" y="{y + 17}" {_TEXT}>{_number(begin)}</text>')
    return _svg(bottom + 50, parts, x_label)


def _legend(entries: Sequence[tuple[str, str]]) -> tuple[list[str], float]:
    """Names with their colours in as many rows as they need, and the height where the plot may begin."""
    parts: list[str] = []
    x, y = 4.0, 8.0
    for name, colour in entries:
        width = 40 + _CHARACTER_PX * len(name)
        if x > 4.0 and x + width > WIDTH_PX:
            x, y = 4.0, y + 22
        parts.append(f'<path d="M{x} {y}h12v12h-12z" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 11}" {_TEXT}>{escape(name)}</text>')
        x += width
    return parts, y + 30


def _label_px(names: Sequence[str]) -> float:
    """Where bars begin: right of the longest name."""
    return min(230.0, 18 + _CHARACTER_PX * max(len(_short(name)) for name in names))


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:27] + "..."


def _x_axis(longest: float, x_of: object, top: float, bottom: float, label: str) -> list[str]:
    assert callable(x_of)
    parts = []
    for tick in _linear_ticks(longest):
        x = x_of(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle" {_TEXT}>{_number(tick)}</text>')
    middle = (x_of(0.0) + x_of(longest)) / 2
    parts.append(f'<text x="{middle:.1f}" y="{bottom + 38}" text-anchor="middle" {_TEXT}>{escape(label)}</text>')
    return parts


def _row_label(name: str, left: float, y: float, wrong: bool) -> str:
    colour = WRONG if wrong else "#222"
    shown = escape(_short(name))
    return f'<text x="{left - 8:.1f}" y="{y}" text-anchor="end" font-size="13" fill="{colour}">{shown}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> Markup:
    """``parts`` are markup; whatever came from outside was escaped where it was put in."""
    return Markup(
        f'<svg viewBox="0 0 {WIDTH_PX} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... within the limits."""
    exponent = math.floor(math.log10(low))
    ticks = []
    while 10**exponent <= high:
        ticks += [m * 10.0**exponent for m in (1, 2, 5) if low <= m * 10.0**exponent <= high]
        exponent += 1
    return ticks


def _linear_ticks(longest: float) -> list[float]:
    """About five round steps from zero."""
    raw = longest / 5
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= raw)
    return [i * step for i in range(int(longest / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
