"""QuPath's GeoJSON of any age: from one Feature to the Outline of it, and of the objects inside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glomedge.slides.annotations.outline import Label, Outline, build, failed

# Until 0.2 QuPath wrote the kind of an object where its id stands now.
_KINDS_AS_IDS = frozenset(
    f"Path{kind}Object" for kind in ("Annotation", "Detection", "Cell", "Tile", "Root", "TMACore")
) | {"TMACoreObject"}
_NO_AREA = frozenset({"Point", "MultiPoint", "LineString", "MultiLineString"})


def outlines_of_feature(feature: Any, first_place: int) -> Iterator[Outline]:
    """The outline of a Feature, then those of its ``childObjects``, which older programs nest inside it.

    Args:
        feature: one decoded Feature, or whatever stands in its place.
        first_place: its number in the file; the objects inside it count on.
    """
    waiting = [feature]
    place = first_place
    while waiting:
        current = waiting.pop()
        yield _outline(current, place)
        place += 1
        children = _object(_object(current).get("properties")).get("childObjects")
        if isinstance(children, list):
            waiting.extend(reversed(children))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A text or number as text; else empty."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value)


def _outline(feature: Any, place: int) -> Outline:
    if not isinstance(feature, dict) or feature.get("type", "Feature") != "Feature":
        return failed(Label(), "geojson", place, "it is no Feature")
    properties = _object(feature.get("properties"))
    identity = _text(feature.get("id"))
    label = Label(
        id="" if identity in _KINDS_AS_IDS else identity,
        class_name=_class(properties.get("classification")),
        name=_text(properties.get("name")),
    )
    geometry = feature.get("geometry")
    if not isinstance(geometry, dict):
        return failed(label, "geojson", place, "it has no geometry")
    kind, points = _text(geometry.get("type"))[:40], geometry.get("coordinates")
    plane = _object(geometry.get("plane"))
    if plane.get("z") or plane.get("t"):
        return failed(label, "geojson", place, "it lies on another plane or time point than the first")
    if kind in _NO_AREA:
        return failed(label, "geojson", place, f"it is a {kind}, which has no area", "no_area")
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(points, list):
        return failed(label, "geojson", place, f"its geometry is {kind or 'nothing'}, not a polygon")
    parts = [points] if kind == "Polygon" else points
    return build(label, "geojson", place, parts, () if _closed(parts) else ("repaired",))


def _class(classification: Any) -> str:
    """The class in any of its forms: an object with ``name``, one with ``names`` (derived), or a text."""
    if isinstance(classification, dict):
        names = classification.get("names")
        if isinstance(names, list) and names:
            return ": ".join(_text(name) for name in names)
        return _text(classification.get("name"))
    return _text(classification)


def _closed(parts: list[Any]) -> bool:
    """Whether every ring ends where it begins, as GeoJSON asks; what is no ring is reported elsewhere."""
    rings = (ring for part in parts if isinstance(part, list) for ring in part if isinstance(ring, list) and ring)
    return all(ring[0] == ring[-1] for ring in rings)
