"""From an outline to its crop: the whole box at level 0, no margin, no mask, not squared.

Crops for training were cut like that by the Digital Slide Archive: the integer part of the smallest and the largest
coordinate, ``read_region`` at level 0. An answer moves when a crop is cut otherwise (docs/slides.md).
"""

from __future__ import annotations

import math

from glomedge.errors import ImageError
from glomedge.slides.annotations.outline import Outline, moved
from glomedge.slides.reader import Box, Region, Slide


def box_of(outline: Outline) -> Box:
    """The box of an outline: from the integer part of its smallest coordinates to that of its largest.

    Raises:
        ImageError: the outline's own error (``outline``, ``no_area``), or ``too_small``.
    """
    if outline.error is not None or outline.bounds is None:
        raise ImageError(outline.error or "outline", f"The outline cannot be used: {outline.detail}.")
    bounds = outline.bounds
    x, y = math.floor(bounds.min_x), math.floor(bounds.min_y)
    width, height = math.floor(bounds.max_x) - x, math.floor(bounds.max_y) - y
    if width < 1 or height < 1:
        raise ImageError("too_small", "The outline is less than a pixel wide or high.")
    return Box(x, y, width, height)


def on_slide(outline: Outline, slide: Slide) -> Outline:
    """The outline in the slide's own pixels: QuPath counts from the scanned part of some slides."""
    return moved(outline, *slide.qupath_origin_px) if outline.source == "geojson" else outline


def cut(slide: Slide, outline: Outline) -> Region:
    """The crop of an outline that is in the slide's own pixels (``on_slide``).

    Raises:
        ImageError: as ``box_of`` and ``Slide.read``.
    """
    return slide.read(box_of(outline))
