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
_LINE_PX, _TEXT_SCALE = 2, 0.5
_PROBABILITY = "Probability globally sclerotic"


def rings_of(geometry: dict[str, Any]) -> list[Any]:
    """Every ring of a Polygon or MultiPolygon."""
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return [ring for part in parts for ring in part]


def main() -> int:
    """Draw, and write the picture."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("slide", "answers", "picture"):
        options.add_argument(name, type=Path)
    arguments = options.parse_args()
    with Slide(arguments.slide) as slide:
        found, (left, upper) = overview(slide, _LONGER_SIDE_PX), slide.qupath_origin_px
    bgr = cv2.cvtColor(found.pixels_hwc, cv2.COLOR_RGB2BGR)
    scale = bgr.shape[1] / found.part.width
    shift = np.array([left - found.part.x, upper - found.part.y])
    for feature in json.loads(arguments.answers.read_bytes())["features"]:
        properties = feature["properties"]
        colour = tuple(reversed(properties["classification"]["color"]))
        rings = [np.int32(np.floor((np.array(ring) + shift) * scale)) for ring in rings_of(feature["geometry"])]
        cv2.polylines(bgr, rings, isClosed=True, color=colour, thickness=_LINE_PX, lineType=cv2.LINE_AA)
        probability = properties["measurements"].get(_PROBABILITY)
        if probability is not None:
            x, y = rings[0].min(axis=0)
            place = int(x), max(12, int(y) - 4)
            for ink, thickness in (((255, 255, 255), 4), (colour, 1)):  # on white, or tissue hides it
                cv2.putText(
                    bgr, f"{probability:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SCALE, ink, thickness, cv2.LINE_AA
                )
    if not cv2.imwrite(str(arguments.picture), bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
        raise SystemExit(f"{arguments.picture} cannot be written.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
