"""Elements of a Digital Slide Archive annotation (large_image, HistomicsUI): from one element to its Outline."""

from __future__ import annotations

import math
from typing import Any

from glomedge.slides.annotations.outline import Label, Outline, build, ellipse, failed, rectangle

_NO_AREA = frozenset({"point", "arrow", "heatmap", "griddata", "image", "pixelmap"})
_NO_CLASS = frozenset({"", "default"})
"""HistomicsUI's first style group is called ``default``: it says nothing."""


def outline_of_element(element: Any, place: int) -> Outline:
    """The outline of one element; its class is its ``group`` or its ``label``, else empty.

    Args:
        element: one decoded element, or whatever stands in its place.
        place: its number in the file.
    """
    if not isinstance(element, dict):
        return failed(Label(), "dsa", place, "it is no element")
    identity = element.get("id")
    label = Label(
        id=identity if isinstance(identity, str) else "",
        class_name=_own_class(element),
        name=_label(element),
    )
    kind = str(element.get("type"))[:40]
    if kind in _NO_AREA or (kind == "polyline" and not element.get("closed")):
        what = "an open line" if kind == "polyline" else f"of the type {kind}"
        return failed(label, "dsa", place, f"it is {what}, which has no area", "no_area")
    if kind == "polyline":
        holes = element.get("holes")
        rings = [element.get("points"), *(holes if isinstance(holes, list) else [])]
        return build(label, "dsa", place, [rings])
    if kind not in ("rectangle", "rectanglegrid", "circle", "ellipse"):
        return failed(label, "dsa", place, f"its type is {kind!r}")
    ring = _round_or_square(element, kind)
    if ring is None:
        return failed(label, "dsa", place, f"its {kind} has no usable center, size or rotation")
    return build(label, "dsa", place, [ring])


def _own_class(element: dict[str, Any]) -> str:
    group = element.get("group")
    if isinstance(group, str) and group.strip().lower() not in _NO_CLASS:
        return group
    return _label(element)


def _label(element: dict[str, Any]) -> str:
    label = element.get("label")
    value = label.get("value") if isinstance(label, dict) else None
    return value if isinstance(value, str) else ""


def _round_or_square(element: dict[str, Any], kind: str) -> list[list[tuple[float, float]]] | None:
    """The ring of a shape given by its centre; None where a number is missing, infinite or not positive."""
    sizes = ("radius", "radius") if kind == "circle" else ("width", "height")
    centre = element.get("center")
    rotation = _number(element.get("rotation", 0))
    width, height = (_number(element.get(size)) for size in sizes)
    if not isinstance(centre, list) or len(centre) < 2 or rotation is None or not width or not height:
        return None
    x, y = _number(centre[0]), _number(centre[1])
    if x is None or y is None or width <= 0 or height <= 0:
        return None
    if kind == "circle":
        return ellipse((x, y), (width, height))
    if kind == "ellipse":
        return ellipse((x, y), (width / 2, height / 2), rotation)
    if rotation == 0:
        return rectangle(x - width / 2, y - height / 2, width, height)
    cosine, sine = math.cos(rotation), math.sin(rotation)
    corners = rectangle(-width / 2, -height / 2, width, height)[0]
    return [[(x + along * cosine - across * sine, y + along * sine + across * cosine) for along, across in corners]]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
