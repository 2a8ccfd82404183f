"""Viridis, and the colour bar next to a heatmap.

Letters are Pillow's: OpenCV 5 loads a font for every thread that writes a word, 20 ms each time.
"""

from __future__ import annotations

import functools
import math
import threading

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_PAPER = 255
_TEXT_PX = (10, 12, 15, 18, 22, 27)
"""Few sizes, because text is rendered once per size: the scales of a biopsy's crops share them."""
_TALLEST_EM = 0.75
"""Height of an l in Pillow's built-in font; digits are a little lower."""
_FONT_LOCK = threading.Lock()


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
        threshold_logit: the decision threshold; marked if it is within the scale.
        bgr: whether blue comes first.

    Returns:
        uint8 ``[height_px, W, 3]``, W depends on the height and the three numbers.
    """
    # A line of text; its capitals are lower.
    text_px = max((size for size in _TEXT_PX if size <= height_px // 26), default=_TEXT_PX[0])
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
    from PIL import Image, ImageDraw, ImageFont

    height_px = cap_px - -cap_px // 3
    with _FONT_LOCK:  # FreeType's faces are not to be shared by threads at work
        font = ImageFont.load_default(cap_px / _TALLEST_EM)
        width_px = math.ceil(font.getlength(text)) + 1
        image = Image.new("L", (width_px, height_px))
        ImageDraw.Draw(image).text((0, _above(height_px)), text, fill=255, font=font, anchor="ls")
    ink: Pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_GRAY2BGR)
    ink.setflags(write=False)
    return ink
