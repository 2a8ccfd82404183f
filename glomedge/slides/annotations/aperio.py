"""Aperio ImageScope's XML: ``Annotations / Annotation / Regions / Region / Vertices / Vertex``.

A ``Region`` has ``Type`` 0 (drawn by hand, a polygon), 1 (rectangle) or 2 (ellipse, given by the corners of its box);
others (arrows, rulers) have no area. ``NegativeROA="1"`` is a hole in another region of the same layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glomedge.slides.annotations.outline import (
    Label,
    Outline,
    Polygon,
    Ring,
    build,
    ellipse,
    failed,
    repair,
    shapely_module,
)

Point = tuple[Any, Any]


def number(text: str | None) -> Any:
    """A number as text, with a decimal comma where the program's language has one; else the text, to be refused."""
    try:
        return float((text or "").replace(",", "."))
    except ValueError:
        return text


class AperioHandler:
    """Outlines of one file; those of a layer are complete at its end, when its holes are known."""

    def __init__(self) -> None:
        self.done: list[Outline] = []
        self._place = 0
        self._layer: Mapping[str, str] = {}
        self._region: Mapping[str, str] = {}
        self._points: list[Point] = []
        self._outlines: list[Outline] = []
        self._holes: list[Outline] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if tag == "Annotation":
            self._layer = attributes
        elif tag == "Region":
            self._region, self._points = attributes, []
        elif tag == "Vertex":
            self._points.append((number(attributes.get("X")), number(attributes.get("Y"))))

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag == "Region":
            outline = self._outline()
            self._place += 1
            (self._holes if self._region.get("NegativeROA") == "1" else self._outlines).append(outline)
        elif tag == "Annotation":
            self.done += _with_holes(self._outlines, self._holes)
            self._outlines, self._holes = [], []

    def _outline(self) -> Outline:
        text = self._region.get("Text", "").strip()
        layer_name = self._layer.get("Name", "").strip()
        # A text without a digit on a layer without a name is a class (tubule); with one it is a number (G12).
        of_text = "" if any(character.isdigit() for character in text) else text
        label = Label(
            id=self._region.get("Id", ""),
            class_name=layer_name or of_text,
            name=text,
            layer=self._layer.get("Id", ""),
        )
        kind = self._region.get("Type", "0").strip()
        if kind not in ("0", "1", "2"):
            return failed(label, "aperio", self._place, f"it is a region of type {kind[:20]}, without area", "no_area")
        if kind == "0" or (kind == "1" and len(self._points) > 2):
            return build(label, "aperio", self._place, [[self._points]])
        corners = [point for point in self._points if all(isinstance(value, float) for value in point)]
        if len(corners) < 2 or len(corners) < len(self._points):
            return failed(label, "aperio", self._place, "it has fewer than two corners")
        across, down = zip(*corners, strict=True)
        left, right, upper, lower = min(across), max(across), min(down), max(down)
        if kind == "1":
            ring = [[(left, upper), (right, upper), (right, lower), (left, lower)]]
        else:
            ring = ellipse(((left + right) / 2, (upper + lower) / 2), ((right - left) / 2, (lower - upper) / 2))
        return build(label, "aperio", self._place, [ring])


def _with_holes(outlines: list[Outline], holes: list[Outline]) -> list[Outline]:
    """The outlines of a layer, each hole cut out of the first one it lies in; a hole in none of them is an error."""
    if not holes:
        return outlines
    shapely = shapely_module()
    places = [(index, part) for index, outline in enumerate(outlines) for part in range(len(outline.polygons))]
    # A tree of boxes: comparing every hole with every outline takes minutes where there are tens of thousands.
    tree = shapely.STRtree([shapely.Polygon(outlines[index].polygons[part].exterior) for index, part in places])
    rings: dict[int, dict[int, list[Ring]]] = {}
    astray = []
    for hole in holes:
        shape = shapely.MultiPolygon([shapely.Polygon(part.exterior) for part in hole.polygons])
        around = [] if hole.error else tree.query(shape, predicate="within").tolist()
        if around:
            index, part = places[min(around)]
            rings.setdefault(index, {}).setdefault(part, []).extend(each.exterior for each in hole.polygons)
        elif hole.error:
            astray.append(hole)
        else:
            astray.append(failed(hole.label, "aperio", hole.place, "it is a hole that lies in no outline"))
    for index, cuts in rings.items():
        outlines[index] = _cut(outlines[index], cuts)
    return sorted([*outlines, *astray], key=lambda outline: outline.place)


def _cut(outline: Outline, cuts: Mapping[int, list[Ring]]) -> Outline:
    """The outline with holes in its polygons (number of the polygon -> holes), or as it was where nothing is left."""
    cut = [
        Polygon(polygon.exterior, (*polygon.holes, *cuts.get(part, ())))
        for part, polygon in enumerate(outline.polygons)
    ]
    polygons, repaired = repair(cut)
    flags = tuple(dict.fromkeys((*outline.flags, *(["repaired"] if repaired else []))))
    return replace(outline, polygons=tuple(polygons), flags=flags) if polygons else outline
