"""Aperio ImageScope's XML: ``Annotations / Annotation / Regions / Region / Vertices / Vertex``.

A ``Region`` has ``Type`` 0 (drawn by hand, a polygon), 1 (rectangle) or 2 (ellipse, given by the corners of its box);
others (arrows, rulers) have no area. ``NegativeROA="1"`` is a hole in another region of the same layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glomedge.slides.annotations.outline import Label, Outline, Polygon, build, ellipse, failed, repair, shapely_module

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
        self._attribute = ""
        self._region: Mapping[str, str] = {}
        self._points: list[Point] = []
        self._outlines: list[Outline] = []
        self._holes: list[Outline] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if tag == "Annotation":
            self._layer, self._attribute = attributes, ""
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
    """The outlines of a layer, each hole cut out of the one it lies in; a hole in none of them is an error."""
    for hole in holes:
        for index, outline in enumerate(outlines):
            cut = _cut(outline, hole)
            if cut is not None:
                outlines[index] = cut
                break
        else:
            outlines.append(
                hole if hole.error else failed(hole.label, "aperio", hole.place, "it is a hole that lies in no outline")
            )
    return sorted(outlines, key=lambda outline: outline.place)


def _cut(outline: Outline, hole: Outline) -> Outline | None:
    """The outline with that hole; None where the hole does not lie in it."""
    if outline.bounds is None or hole.bounds is None:
        return None
    outer, inner = outline.bounds, hole.bounds
    if inner.min_x < outer.min_x or inner.min_y < outer.min_y or inner.max_x > outer.max_x or inner.max_y > outer.max_y:
        return None
    shapely = shapely_module()
    for index, polygon in enumerate(outline.polygons):
        if all(shapely.Polygon(polygon.exterior).contains(shapely.Polygon(part.exterior)) for part in hole.polygons):
            rings = (*polygon.holes, *(part.exterior for part in hole.polygons))
            polygons = list(outline.polygons)
            polygons[index] = Polygon(polygon.exterior, rings)
            polygons, repaired = repair(polygons)
            flags = tuple(dict.fromkeys((*outline.flags, *(["repaired"] if repaired else []))))
            return replace(outline, polygons=tuple(polygons), flags=flags) if polygons else outline
    return None
