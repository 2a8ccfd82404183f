"""What QuPath 0.5 to 0.7 does with a GeoJSON file, restated from trying it: taken, refused, or read wrongly.

One bad object makes QuPath refuse the whole file. Nothing of QuPath's own code is here.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

import shapely.geometry

_GEOMETRIES = {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon"}
_KINDS = {"annotation", "detection", "cell", "tile", "tma_core"}
REFUSED, WRONG = "refused", "read wrongly"


def qupath_problems(data: bytes) -> list[str]:
    """One line for each thing that QuPath refuses (``refused: ...``) or takes otherwise than it is meant."""
    try:
        root = json.loads(data.decode("utf-8"))
    except ValueError as error:  # no UTF-8, no JSON, cut off
        return [f"{REFUSED}: {error}"]
    if isinstance(root, list):
        features = root
    elif root.get("type") == "FeatureCollection":
        features = root["features"]
    elif root.get("type") == "Feature":
        features = [root]
    else:
        return [f"{WRONG}: a root without a type gives no objects"]
    seen: set[str] = set()
    return [f"{problem} (feature {number})" for number, each in enumerate(features) for problem in _feature(each, seen)]


def _feature(feature: Any, seen: set[str]) -> list[str]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        return [f"{REFUSED}: no Feature"]
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return [f"{REFUSED}: properties"]
    return [
        *_identity(feature.get("id"), seen),
        *_geometry(feature.get("geometry")),
        *([] if properties.get("objectType") in _KINDS else [f"{WRONG}: without objectType it is an annotation"]),
        *([f"{REFUSED}: name is null"] if "name" in properties and properties["name"] is None else []),
        *_classification(properties.get("classification", "")),
        *_measurements(properties.get("measurements", {})),
        *_metadata(properties.get("metadata", {})),
    ]


def _identity(identity: Any, seen: set[str]) -> list[str]:
    try:
        plain = str(uuid.UUID(identity))
    except (ValueError, TypeError, AttributeError):
        return [f"{WRONG}: an id that is no UUID is replaced at random"]
    if plain in seen:
        return [f"{WRONG}: the id is there twice"]
    seen.add(plain)
    return []


def _geometry(geometry: Any) -> list[str]:
    if not isinstance(geometry, dict) or geometry.get("type") not in _GEOMETRIES:
        return [f"{REFUSED}: geometry"]
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    for part in parts:
        for ring in part:
            if len(ring) < 4 or ring[0] != ring[-1]:
                return [f"{REFUSED}: open ring"]
            if not all(isinstance(value, int | float) and math.isfinite(value) for point in ring for value in point):
                return [f"{REFUSED}: a coordinate is no number"]
    return [] if shapely.geometry.shape(geometry).is_valid else [f"{REFUSED}: the polygon crosses itself"]


def _classification(given: Any) -> list[str]:
    if isinstance(given, str):
        return []
    colour = given.get("color") if isinstance(given, dict) else None
    if isinstance(given, dict) and isinstance(given.get("colorRGB"), int):
        return []
    if isinstance(colour, list) and len(colour) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
        return []
    return [f"{REFUSED}: a classification without a colour of three numbers"]


def _measurements(given: Any) -> list[str]:
    if isinstance(given, list):
        given = {each["name"]: each["value"] for each in given}
    problems = []
    for name, value in given.items():
        if value is None:
            problems.append(f"{WRONG}: the measurement {name} is dropped")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"{REFUSED}: the measurement {name} is text")
    return problems


def _metadata(given: Any) -> list[str]:
    return [] if all(isinstance(value, str) for value in given.values()) else [f"{REFUSED}: metadata that is no text"]
