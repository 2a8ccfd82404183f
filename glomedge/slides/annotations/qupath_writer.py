"""Answers as GeoJSON that QuPath imports: one detection for each outline, streamed.

QuPath refuses a whole file for one bad object, so what it refuses is never written: a class has a colour, measurements
are finite numbers, metadata are texts, rings are closed, polygons do not cross themselves, ids are distinct UUIDs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from importlib.resources import files
from typing import IO, Any

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.outline import Outline, Polygon, Ring, moved

SCRIPT_NAME = "apply_to_annotations.groovy"
"""Of the script for QuPath that is written beside the answers (``script_bytes``)."""
_NAMESPACE = uuid.UUID("5f0c1f8e-6a0d-5d0b-9b1c-3c6d0a3e7f21")
"""Parent of the ids of outlines whose own id is no UUID."""


class _Ids:
    """New ids, the same whenever the same outlines are answered again, and never one twice in a file.

    The outline's own is not used: an id that is in the project opens a dialog of QuPath, and may renew all of them.
    """

    def __init__(self) -> None:
        self._given: set[bytes] = set()

    def of(self, outline: Outline) -> str:
        try:
            parent = uuid.UUID(outline.id)
        except ValueError:
            own = f"{outline.source} {outline.id or outline.place}".encode("utf-8", "backslashreplace")
            parent = uuid.uuid5(_NAMESPACE, own.decode())
        made, count = uuid.uuid5(parent, "glomedge"), 1
        while made.bytes in self._given:
            count += 1
            made = uuid.uuid5(parent, f"glomedge {count}")
        self._given.add(made.bytes)
        return str(made)


def write_qupath(
    handle: IO[bytes], answers: Iterable[AnsweredOutline], note: RunNote, origin_px: tuple[float, float] = (0, 0)
) -> int:
    """Write a FeatureCollection; an outline that has no shape is left out.

    Args:
        handle: to write UTF-8 into.
        answers: in the order of the file.
        note: of the run; its texts stand in the member ``glomedge`` of the file, which QuPath ignores.
        origin_px: where QuPath counts from, in level-0 pixels of the slide (``Slide.qupath_origin_px``).

    Returns:
        How many detections were written.
    """
    head = json.dumps(note.as_texts(), ensure_ascii=False)
    handle.write(f'{{"type": "FeatureCollection", "glomedge": {head}, "features": ['.encode())
    ids, count = _Ids(), 0
    for answered in answers:
        if answered.outline.error is not None:
            continue
        feature = _feature(answered, note, ids.of(answered.outline), origin_px)
        text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
        # What JSON cannot hold as UTF-8 (half of a surrogate pair in a name) is escaped as the input had it.
        handle.write((",\n" if count else "\n").encode() + text.encode("utf-8", "backslashreplace"))
        count += 1
    handle.write(b"\n]}\n")
    return count


def script_bytes() -> bytes:
    """The script for QuPath's script editor that puts imported answers onto the user's own annotations."""
    return files(__package__).joinpath(SCRIPT_NAME).read_bytes()


def _feature(answered: AnsweredOutline, note: RunNote, identity: str, origin_px: tuple[float, float]) -> dict[str, Any]:
    outline = moved(answered.outline, -origin_px[0], -origin_px[1])
    class_name, colour = note.class_of(answered)
    measurements = {"Threshold": note.threshold}
    if answered.probability is not None:
        measurements = {"Probability globally sclerotic": answered.probability, **measurements}
    metadata = {
        "Annotation id": outline.id,
        "Annotation class": outline.label.class_name,
        "Status": answered.status,
        "Flags": "+".join(outline.flags),
        "Model SHA-256": note.model_sha256,
        "Notice": RESEARCH_USE_NOTICE,
    }
    return {
        "type": "Feature",
        "id": identity,
        "geometry": geometry_of(outline.polygons),
        "properties": {
            "objectType": "detection",
            "classification": {"name": class_name, "color": list(colour)},
            "measurements": measurements,
            "metadata": {key: value for key, value in metadata.items() if value},
        },
    }


def geometry_of(polygons: tuple[Polygon, ...]) -> dict[str, Any]:
    """Polygons as a GeoJSON geometry, with closed rings."""
    parts = [[_closed(part.exterior), *map(_closed, part.holes)] for part in polygons]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _closed(ring: Ring) -> list[list[float]]:
    points: list[list[float]] = ring.tolist()
    return [*points, points[0]]
