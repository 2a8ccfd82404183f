"""GeoJSON files as QuPath of every age, detectors and scripts write them, and damaged ones.

For each: what glomedge reads (one word an outline: ``ok``, ``repaired`` or the error code; or words of the refusal),
and what QuPath does with the file (``taken``, ``refused``, ``wrong``; None where that was not tried).
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

UUID = "0d6a2c1e-9d0f-4f5e-8a53-6b1f1f0a7c{:02x}"
SQUARE = [[[10.5, 20.0], [110.0, 20.0], [110.0, 140.25], [10.5, 140.25], [10.5, 20.0]]]
HOLE = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]
FAR = [[[x + 500, y] for x, y in SQUARE[0]]]
BOW_TIE = [[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]]


class OddFile(NamedTuple):
    """One file."""

    name: str
    data: bytes
    read: list[str] | str
    qupath: str | None = None


def feature(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A Feature as QuPath 0.5 writes it. Changes: of ``geometry`` (merged), ``properties`` (merged) and the rest."""
    geometry, properties = changes.pop("geometry", {}), changes.pop("properties", {})
    made: dict[str, Any] = {
        "type": "Feature",
        "id": UUID.format(number),
        "geometry": geometry if geometry is None else {"type": "Polygon", "coordinates": SQUARE, **geometry},
        "properties": properties
        if properties is None
        else {
            "objectType": "annotation",
            "classification": {"name": "Glomerulus", "color": [200, 0, 0]},
            "isLocked": True,
            **properties,
        },
    }
    return {**made, **changes}


def collection(*features: Any, **others: Any) -> bytes:
    """A FeatureCollection."""
    return json.dumps({"type": "FeatureCollection", "features": list(features), **others}).encode()


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, collection(feature()))
    return buffer.getvalue()


def _without(key: str) -> dict[str, Any]:
    made = feature()
    made["properties"].pop(key, None)
    made.pop(key, None)
    return made


def _shapes() -> list[OddFile]:
    ok, two = ["ok"], ["ok", "ok"]
    parts = {"type": "MultiPolygon", "coordinates": [SQUARE, FAR]}
    rounded = {"coordinates": [[[0.12, 0], [9.99, 0], [5, 9], [0.12, 0]]]}
    indented = b"\n \t" + json.dumps(json.loads(collection(feature())), indent=3).encode() + b"\n\n"
    twice = collection(feature(properties={"metadata": {"a": "1"}})).replace(
        b'"metadata"', b'"metadata": {}, "metadata"'
    )
    derived = {"classification": {"names": ["Glomerulus", "sclerotic"], "color": [1, 2, 3]}}
    nested = feature(properties={"childObjects": [feature(2), feature(3, properties={"childObjects": [feature(4)]})]})
    return [
        OddFile("collection", collection(feature(1), feature(2)), two, "taken"),
        OddFile("bare array", json.dumps([feature(1), feature(2)]).encode(), two, "taken"),
        OddFile("single feature", json.dumps(feature()).encode(), ok, "taken"),
        OddFile("gz", gzip.compress(collection(feature())), ok),
        OddFile("zip", _zip("S-1.geojson"), ok),
        OddFile("zip from macOS", _zip("S-1.geojson", "__MACOSX/._S-1.geojson", "x/.DS_Store"), ok),
        OddFile("plane", collection(feature(geometry={"plane": {"c": -1, "z": 0, "t": 0}})), ok, "taken"),
        OddFile("ellipse", collection(feature(geometry={"isEllipse": True})), ok, "taken"),
        OddFile("cell", collection(feature(nucleusGeometry={"type": "Polygon", "coordinates": SQUARE})), ok, "taken"),
        OddFile("children", collection(nested), ["ok"] * 4, "taken"),
        OddFile("derived class", collection(feature(properties=derived)), ok, "taken"),
        OddFile("metadata twice", twice, ok, "taken"),
        OddFile("class as text", collection(feature(properties={"classification": "Glomerulus"})), ok, "taken"),
        OddFile("no class", collection(_without("classification")), ok, "taken"),
        OddFile("multipolygon", collection(feature(geometry=parts)), ok, "taken"),
        OddFile("hole", collection(feature(geometry={"coordinates": [SQUARE[0], HOLE]})), ok, "taken"),
        OddFile("two decimals", collection(feature(geometry=rounded)), ok, "taken"),
        OddFile("extra members", collection(feature(provenance={"by": 1}), glomedge={"notice": "x"}), ok, "taken"),
        OddFile("empty collection", collection(), []),
        OddFile("empty array", b"[]", []),
        OddFile("byte order mark", b"\xef\xbb\xbf" + collection(feature()), ok),
        OddFile("blanks", indented, ok, "taken"),
        OddFile("Japanese", collection(feature(properties={"name": "糸球体"})), ok, "taken"),
    ]  # fmt: skip


def _ages() -> list[OddFile]:
    ok = ["ok"]
    listed = {
        "measurements": [{"name": "Area", "value": 12.5}],
        "classification": {"name": "Glomerulus", "colorRGB": -65536},
    }
    plain = {"classification": {"name": "Glomerulus"}}
    textual = {"classification": {"name": "Glomerulus", "color": "#ff0000"}}
    solid = {"coordinates": [[[*point, 0] for point in SQUARE[0]]]}
    return [
        OddFile("0.3: list of measurements, colorRGB", collection(feature(properties=listed)), ok, "taken"),
        OddFile("0.2: kind as id", collection(feature(id="PathDetectionObject")), ok, "wrong"),
        OddFile("NaN", collection(feature(properties={"measurements": {"Area": float("nan")}})), ok),
        OddFile("null measurement", collection(feature(properties={"measurements": {"Area": None}})), ok, "wrong"),
        OddFile("text as measurement", collection(feature(properties={"measurements": {"Area": "12"}})), ok, "refused"),
        OddFile("class without colour", collection(feature(properties=plain)), ok, "refused"),
        OddFile("colour as text", collection(feature(properties=textual)), ok, "refused"),
        OddFile("name null", collection(feature(properties={"name": None})), ok, "refused"),
        OddFile("properties null", collection(feature(properties=None)), ok, "refused"),
        OddFile("id no UUID", collection(feature(id="17")), ok, "wrong"),
        OddFile("id a number", collection(feature(id=17)), ok, "wrong"),
        OddFile("id twice", collection(feature(1), feature(1)), ["ok", "ok"], "wrong"),
        OddFile("no id", collection(_without("id")), ok, "wrong"),
        OddFile("no objectType", collection(_without("objectType")), ok, "wrong"),
        OddFile("root without type", json.dumps({"features": [feature()]}).encode(), ok, "wrong"),
        OddFile("three coordinates", collection(feature(geometry=solid)), ok),
    ]  # fmt: skip


def _bad_outlines() -> list[OddFile]:
    def shaped(**geometry: Any) -> bytes:
        return collection(feature(geometry=geometry))

    good = feature(2)
    return [
        OddFile("self-crossing", shaped(coordinates=BOW_TIE), ["repaired"], "refused"),
        OddFile("open ring", shaped(coordinates=[SQUARE[0][:-1]]), ["repaired"], "refused"),
        OddFile("geometry null", collection(feature(geometry=None), good), ["outline", "ok"], "refused"),
        OddFile("collection of geometries", shaped(type="GeometryCollection", geometries=[]), ["outline"], "refused"),
        OddFile("point", shaped(type="Point", coordinates=[3, 4]), ["no_area"], "taken"),
        OddFile("points", shaped(type="MultiPoint", coordinates=[[3, 4]]), ["no_area"], "taken"),
        OddFile("line", shaped(type="LineString", coordinates=[[3, 4], [5, 6]]), ["no_area"], "taken"),
        OddFile("another plane", shaped(plane={"c": -1, "z": 3, "t": 0}), ["outline"]),
        OddFile("no points", shaped(coordinates=[]), ["outline"]),
        OddFile("empty ring", shaped(coordinates=[[]]), ["outline"]),
        OddFile("two points", shaped(coordinates=[[[1, 1], [2, 2], [1, 1]]]), ["outline"]),
        OddFile("no area", shaped(coordinates=[[[1, 1], [2, 2], [3, 3], [1, 1]]]), ["outline"]),
        OddFile("text as coordinate", shaped(coordinates=[[["a", 1], [2, 2], [3, 1], ["a", 1]]]), ["outline"]),
        OddFile("ragged", shaped(coordinates=[[[1], [2, 2], [3, 1], [1]]]), ["outline"]),
        OddFile("out of range", shaped(coordinates=[[[1e12, 0], [1e12, 9], [5, 9], [1e12, 0]]]), ["outline"]),
        OddFile("infinite", shaped(coordinates=[[[0, 0], [9, 0], [9, 8]]]).replace(b"9", b"1e999"), ["outline"]),
        OddFile("a number for a feature", collection(17, good), ["outline", "ok"]),
        OddFile("coordinates an object", shaped(coordinates={"a": 1}), ["outline"]),
    ]  # fmt: skip


def _damaged() -> list[OddFile]:
    whole = collection(feature(1), feature(2))
    return [
        OddFile("cut off", whole[:-40], "ends too early", "refused"),
        OddFile("cut off between features", whole[: whole.index(b"}, {") + 2], "ends too early", "refused"),
        OddFile("UTF-16", whole.decode().encode("utf-16"), "UTF-16", "refused"),
        OddFile("not UTF-8", whole.replace(b"Glomerulus", b"Glom\xe9rule"), "not UTF-8"),
        OddFile("trailing comma", whole.replace(b"]}", b"],}"), "damaged"),
        OddFile("text after the end", whole + b"{}", "after the end"),
        OddFile("nested too deeply", b'{"type": "FeatureCollection", "features": [' + b"[" * 200_000, "damaged|nested"),
        OddFile("other JSON", b'{"slides": 3, "name": "x"}', "neither GeoJSON"),
        OddFile("an array of numbers", b"[1, 2]", "no object"),
        OddFile("empty", b"", "empty"),
        OddFile("gz cut off", gzip.compress(whole)[:-20], "archive is damaged"),
        OddFile("zip of two", _zip("a.geojson", "b.geojson"), "holds 2 files"),
        OddFile("a slide", b"II*\0" + bytes(100), "TIFF image"),
    ]  # fmt: skip


_PARTS: tuple[Callable[[], list[OddFile]], ...] = (_shapes, _ages, _bad_outlines, _damaged)
ODD_FILES = [odd for part in _PARTS for odd in part()]
