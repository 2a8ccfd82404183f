"""Answers as an annotation of the Digital Slide Archive: one closed polyline for each outline, streamed.

The archive refuses an annotation with one property that its schema does not list, so results stand in ``user``, and the
class in ``group`` and ``label``. Ids of 24 hexadecimal digits are kept, so that an answer finds its outline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote

_ID = re.compile("[0-9a-f]{24}")


def write_dsa(handle: IO[bytes], answers: Iterable[AnsweredOutline], note: RunNote, name: str = "glomedge") -> int:
    """Write one annotation; an outline that has no shape is left out, a hole in an outline is not drawn.

    Args:
        handle: to write UTF-8 into.
        answers: in the order of the file.
        note: of the run; its texts stand in ``attributes``.
        name: of the annotation, as the archive lists it.

    Returns:
        How many outlines were written.
    """
    head = json.dumps(
        {"name": name, "description": RESEARCH_USE_NOTICE, "attributes": note.as_texts()}, ensure_ascii=False
    )
    handle.write(f'{head[:-1]}, "elements": ['.encode("utf-8", "backslashreplace"))
    used: set[str] = set()
    count, separator = 0, "\n"
    for answered in answers:
        if answered.outline.error is not None:
            continue
        for element in _elements(answered, note, used):
            text = json.dumps(element, ensure_ascii=False, allow_nan=False)
            handle.write(separator.encode() + text.encode("utf-8", "backslashreplace"))
            separator = ",\n"
        count += 1
    handle.write(b"\n]}\n")
    return count


def _elements(answered: AnsweredOutline, note: RunNote, used: set[str]) -> Iterator[dict[str, Any]]:
    """A polyline for each part of the outline; the first one has its id."""
    outline = answered.outline
    class_name, colour = note.class_of(answered)
    shown = ", ".join(map(str, colour))
    text = class_name if answered.probability is None else f"{class_name} {answered.probability:.2f}"
    user: dict[str, Any] = {
        "annotation_id": outline.id,
        "annotation_class": outline.label.class_name,
        "status": answered.status,
        "flags": "+".join(outline.flags),
    }
    user = {key: value for key, value in user.items() if value}
    if answered.probability is not None:
        user["probability_globally_sclerotic"] = answered.probability
    for number, polygon in enumerate(outline.polygons):
        element: dict[str, Any] = {"type": "polyline"}
        if number == 0 and _ID.fullmatch(outline.id) and outline.id not in used:
            used.add(outline.id)
            element["id"] = outline.id
        yield element | {
            "label": {"value": text},
            "group": class_name,
            "user": user if len(outline.polygons) == 1 else {**user, "part": number + 1},
            "lineColor": f"rgb({shown})",
            "lineWidth": 2,
            "fillColor": f"rgba({shown}, 0.15)",
            "closed": True,
            "points": [[x, y, 0] for x, y in polygon.exterior.tolist()],
        }
