"""A slide as a whole, small enough for a page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.errors import ImageError
from glomedge.slides.reader import MAX_BOX_PX, Box, Slide

LONGER_SIDE_PX = 1600


class Overview(NamedTuple):
    """A picture of a slide.

    Attributes:
        pixels_hwc: uint8 ``[H, W, 3]``, RGB.
        part: what it shows, in level-0 pixels: the scanned part where the slide names one, else the whole.
    """

    pixels_hwc: npt.NDArray[np.uint8]
    part: Box


def overview(slide: Slide, longer_side_px: int = LONGER_SIDE_PX) -> Overview:
    """The slide from the smallest level of its pyramid that has enough pixels.

    Args:
        slide: open.
        longer_side_px: of the picture, at most; a smaller slide is not enlarged.

    Raises:
        ImageError: ``too_large``: even the smallest level has more than 64 million pixels there. Otherwise as
            ``Slide.read``.
    """
    import cv2

    info = slide.info
    part = info.bounds or Box(0, 0, info.width_px, info.height_px)
    part = _within(part, info.width_px, info.height_px)
    scale = min(1.0, longer_side_px / max(part.width, part.height))
    width, height = max(1, round(part.width * scale)), max(1, round(part.height * scale))
    enough = [level for level, (columns, _) in enumerate(info.levels) if columns >= info.width_px * scale]
    level = enough[-1] if enough else 0
    columns, rows = info.levels[level]
    if part.width * columns / info.width_px * part.height * rows / info.height_px > MAX_BOX_PX:
        raise ImageError("too_large", "The slide has no level that is small enough for an overview.")
    pixels = slide.read_level(level, part)
    return Overview(np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8), part)


def _within(part: Box, width_px: int, height_px: int) -> Box:
    """A part as the slide names it, as far as it lies on the slide; the whole slide where it does not."""
    left, upper = max(0, part.x), max(0, part.y)
    right, lower = min(width_px, part.x + part.width), min(height_px, part.y + part.height)
    if left >= right or upper >= lower:
        return Box(0, 0, width_px, height_px)
    return Box(left, upper, right - left, lower - upper)
