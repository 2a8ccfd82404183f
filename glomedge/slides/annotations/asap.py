"""ASAP's XML: ``ASAP_Annotations / Annotations / Annotation / Coordinates / Coordinate``.

The class is the group (``PartOfGroup``); ``Name`` is a running text (``Annotation 0``). A spline is read as the polygon
through its points, which lie on the curve.
"""

from __future__ import annotations

from collections.abc import Mapping

from glomedge.slides.annotations.aperio import Point, number
from glomedge.slides.annotations.outline import Label, Outline, build, failed

_AREAS = frozenset({"polygon", "spline", "rectangle"})


class AsapHandler:
    """Outlines of one file, each complete where its element ends."""

    def __init__(self) -> None:
        self.done: list[Outline] = []
        self._place = 0
        self._annotation: Mapping[str, str] = {}
        self._points: list[tuple[float, Point]] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if tag == "Annotation":
            self._annotation, self._points = attributes, []
        elif tag == "Coordinate":
            order = number(attributes.get("Order", ""))
            place = order if isinstance(order, float) else float(len(self._points))
            self._points.append((place, (number(attributes.get("X")), number(attributes.get("Y")))))

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag != "Annotation":
            return
        group = self._annotation.get("PartOfGroup", "").strip()
        name = self._annotation.get("Name", "")
        # ASAP's names are unique within a file, and the only thing that tells its annotations apart.
        label = Label(id=name, class_name="" if group.lower() == "none" else group, name=name)
        kind = self._annotation.get("Type", "Polygon")
        if kind.lower() in _AREAS:
            points = [point for _, point in sorted(self._points, key=lambda entry: entry[0])]
            self.done.append(build(label, "asap", self._place, [[points]]))
        else:
            self.done.append(failed(label, "asap", self._place, f"it is a {kind[:40]}, which has no area", "no_area"))
        self._place += 1
