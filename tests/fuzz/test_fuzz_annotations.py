"""Annotation files of any content: read, or refused with a message; never another exception."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glomedge.errors import GlomedgeError
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dsa_writer import write_dsa
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.qupath_writer import write_qupath
from glomedge.slides.annotations.reading import read_outlines
from helpers.annotation_files import aperio, asap, asap_annotation, dsa, encoded, layer, polyline, region
from helpers.dsa_rules import dsa_problems
from helpers.odd_geojson import collection, feature
from helpers.qupath_rules import qupath_problems

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
CORNERS = ((10, 20), (110, 20), (110, 140), (10, 140))
WHOLE = [
    collection(feature(1), feature(2, geometry={"type": "MultiPolygon", "coordinates": [[[[0, 0], [9, 0], [9, 9]]]]})),
    encoded(dsa(polyline(), {"type": "ellipse", "center": [9, 9, 0], "width": 4, "height": 5, "rotation": 1})),
    aperio(layer(region(1, *CORNERS), region(2, CORNERS[0], CORNERS[2], Type=2), name="Glomerulus")),
    asap(asap_annotation("Annotation 0", *CORNERS)),
    b"id,class,x,y,width,height\na,GS,1,2,3,4\nb,,5,6,7,8\n",
]
NOTE = RunNote("model.onnx", "ab" * 32, 0.5, ("no", "yes"))
_NUMBERS = st.integers(-(10**20), 10**20) | st.floats() | st.integers(-50, 50)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def check(data: bytes) -> list[Outline]:
    """Read; whatever is read can be written so that the viewers take it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(data)
        refusal = ""
        try:
            outlines = list(read_outlines(path))
        except GlomedgeError as error:
            outlines, refusal = [], str(error)
    assert len(refusal) < 600
    answers = [AnsweredOutline(outline, "ok", 0.5, 1) for outline in outlines]
    handle = io.BytesIO()
    write_qupath(handle, answers, NOTE)
    assert qupath_problems(handle.getvalue()) == []
    handle = io.BytesIO()
    write_dsa(handle, answers, NOTE)
    assert dsa_problems(json.loads(handle.getvalue())) == []
    return outlines


@pytest.mark.parametrize("whole", WHOLE, ids=["geojson", "dsa", "aperio", "asap", "csv"])
def test_the_files_to_be_damaged_are_read(whole: bytes) -> None:
    outlines = check(whole)
    assert outlines
    assert all(outline.error is None for outline in outlines)


@QUICK
@given(st.data())
def test_damaged_bytes(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not damaged:
            break
    check(bytes(damaged[: data.draw(st.integers(1, max(1, len(damaged))))]))


@QUICK
@given(
    _VALUES, st.sampled_from(["geometry", "properties", "id", "type", "coordinates", "classification", "childObjects"])
)
def test_any_value_in_any_place_of_a_feature(value: Any, key: str) -> None:
    changed = feature()
    target = changed["geometry"] if key == "coordinates" else changed
    target = changed["properties"] if key in ("classification", "childObjects") else target
    target[key] = value
    assert len(check(collection(changed, feature(2)))) >= 2


@QUICK
@given(
    _VALUES,
    st.sampled_from(["points", "type", "closed", "id", "group", "label", "holes", "center", "width", "rotation"]),
)
def test_any_value_in_any_place_of_an_element(value: Any, key: str) -> None:
    round_one = {"type": "ellipse", "center": [9, 9, 0], "width": 4, "height": 5, "rotation": 1, key: value}
    assert len(check(encoded(dsa(polyline(**{key: value}), round_one)))) == 2


@QUICK
@given(st.lists(st.tuples(*[st.floats(-100, 100)] * 2), min_size=3, max_size=8))
def test_outlines_that_cross_themselves_in_any_way(points: list[tuple[float, float]]) -> None:
    for outline in check(collection(feature(geometry={"coordinates": [[*points, points[0]]]}))):
        if outline.bounds is not None:
            xs, ys = zip(*points, strict=True)
            assert outline.bounds == (min(xs), min(ys), max(xs), max(ys))


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check(data)
