"""Viridis, and the strip beside a heatmap that says which colour stands for which activation.

The few letters are drawn here: OpenCV 5 loads a font for every thread that writes a word, 20 ms each time, and its
release 4 writes with another one. These look the same everywhere.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Points = list[tuple[float, float]]

_PAPER = 255
_FINER = 8
"""Letters are drawn that much larger and averaged: any stroke width, smooth edges."""


@functools.lru_cache(maxsize=8)
def viridis(*, bgr: bool, share: float = 1.0) -> Pixels:
    """All 256 colours, each channel times ``share``: uint8 ``[256, 1, 3]`` as ``cv2.applyColorMap`` takes it."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)
    shared: Pixels = np.rint((table if bgr else table[..., ::-1]) * share).astype(np.uint8)
    shared.setflags(write=False)
    return shared


def strip(height_px: int, low: float, high: float, threshold_logit: float | None, *, bgr: bool) -> Pixels:
    """The scale: its colours, the least and greatest activation, the decision's place.

    Args:
        height_px: of the crop beside it.
        low: activation at the lower end.
        high: activation at the upper end, above ``low``.
        threshold_logit: where the decision turns; marked where it lies on the scale.
        bgr: whether blue comes first.

    Returns:
        uint8 ``[height_px, W, 3]``, W depends on the height and the three numbers.
    """
    text_px = max(10, min(27, height_px // 26))  # a line of text; its capitals are lower
    cap_px = round(0.8 * text_px)
    thickness = 2 if text_px >= 20 else 1
    labels = {0.0: _signed(low), 1.0: _signed(high)}
    place = None if threshold_logit is None else (threshold_logit - low) / (high - low)
    if threshold_logit is not None and place is not None and 0.0 <= place <= 1.0:
        labels[place] = _signed(threshold_logit)

    title = _text("logit", cap_px)
    texts = {share: _text(label, cap_px) for share, label in labels.items()}
    bar_px, gap_px = round(text_px * 1.5), max(3, text_px // 2)
    left, right = gap_px, gap_px + bar_px
    # The title starts at the bar, the numbers beside it.
    widest_px = max(title.shape[1] - bar_px - gap_px, *(text.shape[1] for text in texts.values()))
    image = np.full((height_px, right + 2 * gap_px + widest_px, 3), _PAPER, np.uint8)

    top, bottom = min(2 * text_px + gap_px, height_px - 1), max(height_px - gap_px - 1, 0)
    if bottom - top < 4:
        top, bottom = 0, height_px - 1
    ramp = np.rint(np.linspace(255.0, 0.0, bottom - top + 1)).astype(np.intp)
    # Widened by OpenCV: NumPy would copy three bytes at a time.
    image[top : bottom + 1, left:right] = cv2.resize(
        viridis(bgr=bgr)[ramp], (bar_px, len(ramp)), interpolation=cv2.INTER_NEAREST
    )
    if top > 0:
        _write(image, title, gap_px, gap_px + text_px)

    taken: list[int] = []
    for share in sorted(texts, key=lambda share: (share != place, share)):  # the decision's label has precedence
        row = round(bottom - share * (bottom - top))
        if share == place:
            cv2.line(image, (left - 2, row), (right + 1, row), (0, 0, 0), thickness + 2)
            cv2.line(image, (left, row), (right - 1, row), (_PAPER,) * 3, thickness)
        baseline = min(max(row + cap_px // 2, cap_px), height_px - 1)
        if all(abs(baseline - other) > text_px + 2 for other in taken):
            taken.append(baseline)
            _write(image, texts[share], right + gap_px, baseline)
    return image


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _write(image: Pixels, text: Pixels, left: int, baseline: int) -> None:
    """Lay ink, uint8 ``[h, w, 3]``, on an image; what falls outside is left out."""
    top = baseline - _above(text.shape[0])
    part = image[max(top, 0) : max(top + text.shape[0], 0), left : left + text.shape[1]]
    ink = text[max(-top, 0) :][: part.shape[0], : part.shape[1]]
    np.minimum(part, _PAPER - ink, out=part)


def _above(height_px: int) -> int:
    """Rows above the baseline of a text that is ``height_px`` high: a third as much lies below it."""
    return height_px * 3 // 4


@functools.lru_cache(maxsize=256)
def _text(text: str, cap_px: int) -> Pixels:
    """Ink of a word: uint8 ``[4/3 cap_px, w, 3]``, 255 for black; a capital is ``cap_px`` high."""
    pen_px = (0.16 if cap_px >= 12 else 0.135) * cap_px
    inner_px = cap_px - pen_px  # the outermost ink of a stroke stays inside the capital's height
    lines: list[npt.NDArray[np.int32]] = []
    x = 0.0
    for letter in text:
        strokes, advance = _LETTERS[letter]
        for stroke in strokes:
            # Up from the baseline becomes down from the top.
            points_px = stroke * (inner_px, -inner_px) + (x * cap_px + pen_px / 2, cap_px - pen_px / 2)
            lines.append(np.rint(points_px * _FINER).astype(np.int32))
        x += advance
    large = np.zeros((_FINER * (cap_px - -cap_px // 3), math.ceil(x * cap_px) * _FINER), np.uint8)
    cv2.polylines(large, lines, False, 255, round(pen_px * _FINER))
    small = cv2.resize(large, None, fx=1 / _FINER, fy=1 / _FINER, interpolation=cv2.INTER_AREA)
    ink: Pixels = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    ink.setflags(write=False)
    return ink


def _arc(x: float, y: float, across: float, up: float, begin: float, end: float) -> Points:
    """Part of an ellipse around (x, y), from an angle to another, in degrees, counter-clockwise from the right."""
    angles = np.radians(np.linspace(begin, end, 17))
    return [(x + across * math.cos(a), y + up * math.sin(a)) for a in angles]


def _turned(strokes: list[Points]) -> list[Points]:
    return [[(0.6 - x, 1.0 - y) for x, y in stroke] for stroke in strokes]


_SIX = [_arc(0.3, 0.31, 0.3, 0.31, 0, 360), _arc(0.62, 0.31, 0.62, 0.69, 180, 100)]
_DOT: Points = [(0.02, 0.0), (0.02, 0.02)]
_DRAWN: dict[str, tuple[list[Points], float]] = {
    "0": ([_arc(0.3, 0.5, 0.3, 0.5, 0, 360)], 0.82),
    "1": ([[(0.06, 0.78), (0.34, 1.0), (0.34, 0.0)]], 0.66),
    "2": ([[*_arc(0.3, 0.7, 0.29, 0.3, 165, -38), (0.02, 0.0), (0.6, 0.0)]], 0.82),
    "3": ([[*_arc(0.28, 0.755, 0.27, 0.245, 150, -90), *_arc(0.29, 0.265, 0.31, 0.265, 75, -150)]], 0.82),
    "4": ([[(0.46, 0.0), (0.46, 1.0), (0.0, 0.28), (0.62, 0.28)]], 0.84),
    "5": ([[(0.55, 1.0), (0.1, 1.0), (0.05, 0.52), *_arc(0.28, 0.32, 0.32, 0.32, 125, -150)]], 0.82),
    "6": (_SIX, 0.82),
    "7": ([[(0.0, 1.0), (0.6, 1.0), (0.2, 0.0)]], 0.8),
    "8": ([_arc(0.3, 0.76, 0.25, 0.24, 0, 360), _arc(0.3, 0.265, 0.3, 0.265, 0, 360)], 0.82),
    "9": (_turned(_SIX), 0.82),
    "+": ([[(0.0, 0.42), (0.56, 0.42)], [(0.28, 0.14), (0.28, 0.7)]], 0.8),
    "-": ([[(0.0, 0.42), (0.4, 0.42)]], 0.62),
    ".": ([_DOT], 0.3),
    "l": ([[(0.02, 1.0), (0.02, 0.0)]], 0.3),
    "o": ([_arc(0.28, 0.34, 0.28, 0.34, 0, 360)], 0.78),
    "g": ([_arc(0.28, 0.34, 0.28, 0.34, 0, 360), [(0.56, 0.68), *_arc(0.28, -0.03, 0.28, 0.25, 0, -150)]], 0.8),
    "i": ([[(0.02, 0.68), (0.02, 0.0)], [(0.02, 0.96), (0.02, 0.98)]], 0.3),
    "t": ([[(0.14, 0.94), *_arc(0.36, 0.2, 0.22, 0.2, 180, 280)], [(0.0, 0.68), (0.38, 0.68)]], 0.56),
}

#: Lines of each letter, float64 ``[points, 2]``, in heights of a capital, from the baseline up; and how far on the next
#: letter stands.
_LETTERS = {letter: ([np.asarray(line) for line in lines], advance) for letter, (lines, advance) in _DRAWN.items()}
