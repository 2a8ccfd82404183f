"""The overview of each slide for the report of a run, read from a low level of its pyramid."""

from __future__ import annotations

from glomedge.errors import ImageError
from glomedge.files.names import escape_name
from glomedge.pipeline.prepare import Pixels
from glomedge.reports.slide_overview import LONGER_SIDE_PX, Overview
from glomedge.runs.slide_parts import SlideParts
from glomedge.slides.overview import overview
from glomedge.slides.reader import Slide

_JPEG_QUALITY = 80


class Overviews:
    """Makes them one by one, by the slide's path as the rows have it.

    Args:
        parts: the slides of the run.
    """

    def __init__(self, parts: SlideParts) -> None:
        self._slides = {escape_name(slide.relative): slide for slide in parts.slides}

    def __call__(self, path: str) -> Overview | None:
        """The overview; without a picture where the slide can no longer be read; None where it never could."""
        slide = self._slides.get(path)
        if slide is None or slide.info is None:
            return None
        info = slide.info
        try:
            with Slide(slide.path, info.mpp) as opened:
                picture = overview(opened, LONGER_SIDE_PX)
        except ImageError:
            return Overview(None, 0, 0, info.width_px, info.height_px, slide.parts)
        return Overview(_jpeg(picture.pixels_hwc), *picture.part, slide.parts)


def _jpeg(pixels_hwc: Pixels) -> bytes | None:
    import cv2

    bgr = cv2.cvtColor(pixels_hwc, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes() if done else None
