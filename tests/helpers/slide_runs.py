"""Small slides with outlines beside them, and runs over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.drawn_slides import picture, write
from helpers.odd_geojson import collection, feature

SLIDES = ("S-1234-000001_PAS_1of2.svs", "S-1234-000001_PAS_2of2.svs", "S-5678-000002_PAS_1of1.svs")
CLASSES = ("globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli", "Glomerulus")


def square(
    number: int, x: float, y: float, side: float = 90, class_name: str = CLASSES[0], **changes: Any
) -> dict[str, Any]:
    """One outline as QuPath writes it: a square whose upper left corner is at x, y."""
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    properties = {"classification": {"name": class_name, "color": [1, 2, 3]}}
    return feature(number, geometry={"coordinates": [ring]}, properties=properties, **changes)


def squares(count: int = 7) -> list[dict[str, Any]]:
    """Outlines within a slide of 900 x 700 pixels, of three classes of glomeruli, in no order of place."""
    return [
        square(number, 37 * number % 700 + 0.75, 91 * number % 500 + 0.25, 70 + 9 * number, CLASSES[number % 3])
        for number in range(count)
    ]


def outline(slide: Path, *features: Any) -> Path:
    """The file of outlines beside a slide."""
    path = slide.with_suffix(".geojson")
    path.write_bytes(collection(*features))
    return path


def write_outlined(folder: Path, names: tuple[str, ...] = SLIDES, count: int = 7) -> list[Path]:
    """Slides of three biopsies' parts with outlines beside them; each also has one outline of tissue."""
    folder.mkdir(parents=True, exist_ok=True)
    slides = []
    for number, name in enumerate(names):
        slides.append(write(folder / name, np.roll(picture(700, 900), 111 * number, axis=1)))
        outline(slides[-1], *squares(count), square(99, 5, 5, 600, "tissue"))
    return slides
