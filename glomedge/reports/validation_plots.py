"""The two plots of the validation report, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from glomedge.cases.biopsy_metrics import CALIBRATION_BINS, bin_of
from glomedge.cases.prevalence import wilson_interval

_SIZE, _LEFT, _BOTTOM, _TOP = 320.0, 62.0, 44.0, 10.0
_GREY, _BLUE, _RED = "#999", "#2f6690", "#8b1a4a"

_Ticks = Sequence[tuple[float, str]]
# Places in a plot are shares of its width, from the left, and of its height, from below.
_Place = tuple[float, float]


def reliability(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> Markup:
    """Share of globally sclerotic crops against predicted probability in ten bins, with Wilson intervals.

    Args:
        labels: ``[N]``, 0 or 1.
        probabilities: ``[N]``.
    """
    parts = [_line((0, 0), (1, 1), _GREY, dash=True)]
    bins = bin_of(probabilities)
    for place in range(CALIBRATION_BINS):
        here = bins == place
        count, positive = int(here.sum()), int(labels[here].sum())
        if count:
            x, (low, high) = float(probabilities[here].mean()), wilson_interval(positive, count)
            parts += [_line((x, low), (x, high), _BLUE), _dot((x, positive / count), f"{positive} of {count}")]
    ticks = [(value / 5, f"{value / 5:g}") for value in range(6)]
    return _frame(parts, ticks, ticks, "predicted probability", "share globally sclerotic")


def bland_altman(pairs: Sequence[tuple[str, float, float]]) -> Markup:
    """Difference against mean of two %GS per biopsy, with the mean difference and the limits of agreement.

    Bland JM, Altman DG, Lancet 1986;1:307: the limits are the mean difference and 1.96 standard deviations.

    Args:
        pairs: biopsy, %GS by labels, %GS by calls; at least one.
    """
    differences = np.array([calls - labels for _, labels, calls in pairs])
    mean, spread = limits_of_agreement(differences)
    reach = max(10.0, float(np.abs(differences).max()), abs(mean) + spread)

    def height(points: float) -> float:
        return (points + reach) / (2 * reach)

    parts = [_line((0, 0.5), (1, 0.5), _GREY), _line((0, height(mean)), (1, height(mean)), _RED)]
    limits = (height(mean - spread), height(mean + spread))
    parts += [_line((0, limit), (1, limit), _RED, dash=True) for limit in limits]
    parts += [
        _dot(((labels + calls) / 200, height(difference)), f"{case}: {difference:+.1f}")
        for (case, labels, calls), difference in zip(pairs, differences.tolist(), strict=True)
    ]
    x_ticks = [(value / 100, str(value)) for value in range(0, 101, 20)]
    y_ticks = [
        (height(value), f"{value:+.0f}" if value else "0") for value in (-reach, -reach / 2, 0.0, reach / 2, reach)
    ]
    return _frame(parts, x_ticks, y_ticks, "mean of both %GS", "calls less labels, points")


def limits_of_agreement(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean difference, and 1.96 standard deviations (0 for a single biopsy)."""
    spread = 1.96 * float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()), spread


def _px(place: _Place) -> _Place:
    return _LEFT + _SIZE * place[0], _TOP + _SIZE * (1 - place[1])


def _line(begin: _Place, end: _Place, colour: str, *, dash: bool = False) -> str:
    (x1, y1), (x2, y2) = _px(begin), _px(end)
    dashes = ' stroke-dasharray="5 4"' if dash else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _dot(place: _Place, title: str) -> str:
    x, y = _px(place)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_BLUE}"><title>{escape(title)}</title></circle>'


def _text(x: float, y: float, words: str, anchor: str = "middle", turn: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {at} font-size="13" fill="#222"{turned}>{escape(words)}</text>'


def _frame(parts: Sequence[str], x_ticks: _Ticks, y_ticks: _Ticks, x_label: str, y_label: str) -> Markup:
    bottom = _TOP + _SIZE
    axes = [f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#8c959f"/>']
    axes += [_text(_px((share, 0))[0], bottom + 17, words) for share, words in x_ticks]
    axes += [_text(_LEFT - 6, _px((0, share))[1] + 4, words, "end") for share, words in y_ticks]
    axes += [_text(_LEFT + _SIZE / 2, bottom + 36, x_label), _text(14, _TOP + _SIZE / 2, y_label, turn=True)]
    width, height = _LEFT + _SIZE + 14, bottom + _BOTTOM
    label = escape(f"{y_label} against {x_label}")
    body = "".join([*axes, *parts])
    # Every word in it is escaped above.
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" style="min-width:0" role="img" aria-label="{label}">{body}</svg>'
    )
