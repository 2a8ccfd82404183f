"""The picture of docs/slides.md: the answers of a run, drawn from its GeoJSON over the slide, as a viewer would.

    python -m benchmarks.pictures.slide_answers SLIDE ANNOTATIONS.geojson PICTURE.jpg

Only what stands in the file is drawn: polygons, and for each the colour of its class and its probability.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from glomedge.slides.overview import overview
from glomedge.slides.reader import Slide

_LONGER_SIDE_PX, _JPEG_QUALITY = 1100, 82
_LINE_PX, _TEXT_SCALE, _LABEL_PX = 2, 0.5, 16
_PROBABILITY = "Probability globally sclerotic"


def rings_of(geometry: dict[str, Any]) -> list[Any]:
    """Every ring of a Polygon or MultiPolygon."""
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return [ring for part in parts for ring in part]


def _label(bgr: Any, text: str, place: tuple[int, int], colour: tuple[int, ...]) -> None:
    """The text on a white ground, or tissue hides it; ``place`` is its lower left corner in pixels."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SCALE, 1)
    (x, y), gap = place, 3
    cv2.rectangle(bgr, (x - gap, y - height - gap), (x + width + gap, y + below), (255, 255, 255), cv2.FILLED)
    cv2.putText(bgr, text, place, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SCALE, colour, 1, cv2.LINE_AA)


def draw(slide_path: Path, answers: Path, picture: Path) -> None:
    """Draw the answers over the slide and write the picture."""
    with Slide(slide_path) as slide:
        found, (left, upper) = overview(slide, _LONGER_SIDE_PX), slide.qupath_origin_px
    bgr = cv2.cvtColor(found.pixels_hwc, cv2.COLOR_RGB2BGR)
    scale = bgr.shape[1] / found.part.width
    shift = np.array([left - found.part.x, upper - found.part.y])
    for feature in json.loads(answers.read_bytes())["features"]:
        properties = feature["properties"]
        colour = tuple(reversed(properties["classification"]["color"]))
        rings = [np.int32(np.floor((np.array(ring) + shift) * scale)) for ring in rings_of(feature["geometry"])]
        cv2.polylines(bgr, rings, isClosed=True, color=colour, thickness=_LINE_PX, lineType=cv2.LINE_AA)
        probability = properties["measurements"].get(_PROBABILITY)
        if probability is not None:
            x, y = rings[0].min(axis=0)
            _label(bgr, f"{probability:.2f}", (int(x), max(_LABEL_PX, int(y) - 4)), colour)
    if not cv2.imwrite(str(picture), bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
        raise SystemExit(f"{picture} cannot be written.")


def main() -> int:
    """Draw, and write the picture."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("slide", "answers", "picture"):
        options.add_argument(name, type=Path)
    arguments = options.parse_args()
    draw(arguments.slide, arguments.answers, arguments.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
