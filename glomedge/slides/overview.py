"""A slide as a whole, small enough for a page, with the glomeruli marked by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.errors import ImageError
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.reader import MAX_BOX_PX, Box, Slide

LONGER_SIDE_PX = 1600
_LINE_PX = 2


class Overview(NamedTuple):
    """A picture of a slide.

    Attributes:
        pixels_hwc: uint8 ``[H, W, 3]``, RGB.
        part: what it shows, in level-0 pixels: the scanned part where the slide names one, else the whole.
    """

    pixels_hwc: npt.NDArray[np.uint8]
    part: Box

    def on_picture(self, points_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Places on the picture, float64 ``[n, 2]`` (x, y), of points of the slide in level-0 pixels."""
        height, width = self.pixels_hwc.shape[:2]
        scale = np.array([width / self.part.width, height / self.part.height])
        return np.asarray((points_px - np.array([self.part.x, self.part.y])) * scale, np.float64)


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


def marked(picture: Overview, answers: Iterable[AnsweredOutline], note: RunNote) -> npt.NDArray[np.uint8]:
    """The picture with every outline drawn in the colour of its class.

    Args:
        picture: of the slide.
        answers: outlines in the slide's own level-0 pixels; those without a shape are not drawn.
        note: of the run, which names the classes' colours.

    Returns:
        uint8 ``[H, W, 3]``, RGB; ``picture`` stays as it is.
    """
    import cv2

    drawn = picture.pixels_hwc.copy()
    for answered in answers:
        _, colour = note.class_of(answered)
        for polygon in answered.outline.polygons:
            rings = [np.floor(picture.on_picture(ring)).astype(np.int32) for ring in (polygon.exterior, *polygon.holes)]
            cv2.polylines(drawn, rings, isClosed=True, color=colour, thickness=_LINE_PX, lineType=cv2.LINE_AA)
    return drawn
