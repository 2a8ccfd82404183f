"""The schema of annotations of the Digital Slide Archive, as large_image documents it, for the shapes that we write.

A property that the schema does not list makes the archive refuse the annotation.
"""

from __future__ import annotations

import math
import re
from typing import Any

_COMMON = {"type", "id", "label", "group", "user", "lineColor", "lineWidth", "fillColor"}
_OWN = {
    "polyline": ({"points", "closed"}, {"points"}),
    "rectangle": ({"center", "width", "height", "rotation", "normal"}, {"center", "width", "height", "rotation"}),
    "circle": ({"center", "radius"}, {"center", "radius"}),
    "ellipse": ({"center", "width", "height", "rotation", "normal"}, {"center", "width", "height", "rotation"}),
}
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}){1,2}|rgb\(\d+, ?\d+, ?\d+\)|rgba\(\d+, ?\d+, ?\d+, ?[01]?\.?\d+\)")


def dsa_problems(annotation: Any) -> list[str]:
    """One line for each thing that the archive refuses; empty where it takes the annotation."""
    problems = [
        f"{key} is not listed" for key in annotation if key not in ("name", "description", "attributes", "elements")
    ]
    if "name" in annotation and not (isinstance(annotation["name"], str) and annotation["name"]):
        problems.append("the name is empty")
    if not isinstance(annotation.get("description", ""), str) or not isinstance(annotation.get("attributes", {}), dict):
        problems.append("description or attributes")
    identities = [element["id"] for element in annotation.get("elements", []) if "id" in element]
    if len(set(identities)) < len(identities):
        problems.append("an id is there twice")
    for number, element in enumerate(annotation.get("elements", [])):
        problems += [f"element {number}: {problem}" for problem in _element(element)]
    return problems


def _element(element: dict[str, Any]) -> list[str]:
    if element.get("type") not in _OWN:
        return ["type"]
    allowed, needed = _OWN[element["type"]]
    problems = [f"{key} is not listed" for key in element.keys() - _COMMON - allowed]
    problems += [f"{key} is missing" for key in needed - element.keys()]
    if not re.fullmatch("[0-9a-f]{24}", element.get("id", "0" * 24)):
        problems.append("id")
    label = element.get("label", {})
    if not isinstance(label, dict) or label.keys() - {"value", "visibility", "fontSize", "color"}:
        problems.append("label")
    if not isinstance(element.get("group", ""), str) or not isinstance(element.get("user", {}), dict):
        problems.append("group or user")
    problems += [key for key in ("lineColor", "fillColor") if not _COLOUR.fullmatch(element.get(key, "#000"))]
    points = element.get("points", [element.get("center", [0, 0, 0])])
    if element["type"] == "polyline" and len(points) < 2:
        problems.append("fewer than two points")
    for point in points:
        if len(point) != 3 or not all(isinstance(value, int | float) and math.isfinite(value) for value in point):
            problems.append(f"a point is not three numbers: {point}")
    return problems
