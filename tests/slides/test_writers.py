"""Answers written for QuPath and for the Digital Slide Archive: both take what is written, and it comes back."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dsa_writer import write_dsa
from glomedge.slides.annotations.outline import Label, Outline, build, failed
from glomedge.slides.annotations.qupath_writer import write_qupath
from glomedge.slides.annotations.reading import read_outlines
from helpers.annotation_files import HEX, dsa, encoded, polyline
from helpers.dsa_rules import dsa_problems
from helpers.odd_geojson import BOW_TIE, FAR, HOLE, ODD_FILES, SQUARE, UUID, collection, feature
from helpers.qupath_rules import qupath_problems

NOTE = RunNote("model.onnx", "ab" * 32, 0.4, ("non-globally sclerotic", "globally sclerotic"))


def answered(outlines: list[Outline]) -> Iterator[AnsweredOutline]:
    for number, outline in enumerate(outlines):
        if outline.error or number % 4 == 3:
            yield AnsweredOutline(outline, f"error:{outline.error or 'corrupt'}", None, None)
        else:
            yield AnsweredOutline(outline, "flagged:blurred" if number % 2 else "ok", 0.25 * (number % 4), number % 2)


def read(tmp_path: Path, data: bytes) -> list[Outline]:
    path = tmp_path / "a"
    path.write_bytes(data)
    return list(read_outlines(path))


def as_qupath(outlines: list[Outline], origin_px: tuple[float, float] = (0, 0)) -> bytes:
    handle = io.BytesIO()
    count = write_qupath(handle, answered(outlines), NOTE, origin_px)
    assert count == sum(outline.error is None for outline in outlines)
    return handle.getvalue()


def as_dsa(outlines: list[Outline]) -> dict[str, Any]:
    handle = io.BytesIO()
    count = write_dsa(handle, answered(outlines), NOTE)
    assert count == sum(outline.error is None for outline in outlines)
    written: dict[str, Any] = json.loads(handle.getvalue())
    return written


@pytest.mark.parametrize("odd", [odd for odd in ODD_FILES if isinstance(odd.read, list)], ids=lambda odd: odd.name)
def test_whatever_was_read_is_written_so_that_both_take_it(odd: Any, tmp_path: Path) -> None:
    outlines = read(tmp_path, odd.data)
    assert qupath_problems(as_qupath(outlines)) == []
    assert dsa_problems(as_dsa(outlines)) == []


def test_a_detection_says_what_was_found_and_by_which_model(tmp_path: Path) -> None:
    outlines = read(tmp_path, collection(feature(1), feature(2), feature(3), feature(4)))
    document = json.loads(as_qupath(outlines))
    assert document["glomedge"]["notice"] == RESEARCH_USE_NOTICE
    second, fourth = document["features"][1], document["features"][3]
    assert second["id"] == str(uuid.uuid5(uuid.UUID(UUID.format(2)), "glomedge"))
    properties = second["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"]["name"] == "globally sclerotic"
    assert properties["measurements"] == {"Probability globally sclerotic": 0.25, "Threshold": 0.4}
    assert properties["metadata"]["Annotation id"] == UUID.format(2)
    assert properties["metadata"]["Status"] == "flagged:blurred"
    assert properties["metadata"]["Model SHA-256"] == NOTE.model_sha256
    assert properties["metadata"]["Notice"] == RESEARCH_USE_NOTICE
    assert fourth["properties"]["classification"]["name"] == "not classified"
    assert "Probability globally sclerotic" not in fourth["properties"]["measurements"]


def test_qupath_in_and_out_lands_on_the_same_place(tmp_path: Path) -> None:
    shapes = [SQUARE, [SQUARE[0], HOLE], FAR]
    parts = feature(4, geometry={"type": "MultiPolygon", "coordinates": [SQUARE, FAR]})
    outlines = read(
        tmp_path, collection(*(feature(at, geometry={"coordinates": each}) for at, each in enumerate(shapes)), parts)
    )
    back = read(tmp_path, as_qupath(outlines))
    for before, after in zip(outlines, back, strict=True):
        assert before.bounds == after.bounds
        assert after.flags == ()
        for old, new in zip(before.polygons, after.polygons, strict=True):
            np.testing.assert_array_equal(old.exterior, new.exterior)
            assert len(old.holes) == len(new.holes)


def test_qupath_counts_from_its_own_corner(tmp_path: Path) -> None:
    (outline,) = read(tmp_path, collection(feature()))
    (back,) = read(tmp_path, as_qupath([outline], (8.0, 16.0)))
    assert outline.bounds is not None
    assert back.bounds == (
        outline.bounds.min_x - 8,
        outline.bounds.min_y - 16,
        outline.bounds.max_x - 8,
        outline.bounds.max_y - 16,
    )


def test_a_repaired_outline_is_written_valid(tmp_path: Path) -> None:
    outlines = read(tmp_path, collection(feature(geometry={"coordinates": BOW_TIE})))
    data = as_qupath(outlines)
    assert qupath_problems(data) == []
    assert json.loads(data)["features"][0]["geometry"]["type"] == "MultiPolygon"
    assert [element.get("id") for element in as_dsa(outlines)["elements"]] == [None, None]


def test_ids_are_new_distinct_and_the_same_every_time(tmp_path: Path) -> None:
    outlines = read(tmp_path, collection(feature(1), feature(1), feature(id="17"), feature(id=None), feature(id=None)))
    ids = [each["id"] for each in json.loads(as_qupath(outlines))["features"]]
    assert len({*ids, UUID.format(1)}) == 6
    assert ids == [each["id"] for each in json.loads(as_qupath(outlines))["features"]]


def test_ids_of_the_archive_are_kept_and_no_others_given(tmp_path: Path) -> None:
    given = [
        polyline(10),
        polyline(11),
        polyline(11),
        polyline(12, id="mine"),
        polyline(13, id="ABCDEF012345678901234567"),
    ]
    written = as_dsa(read(tmp_path, encoded(dsa(*given))))
    assert dsa_problems(written) == []
    assert [element.get("id") for element in written["elements"]] == [HEX.format(10), HEX.format(11), None, None, None]
    assert written["elements"][3]["user"]["annotation_id"] == "mine"
    assert written["description"] == RESEARCH_USE_NOTICE
    assert written["elements"][1]["group"] == "globally sclerotic"
    assert written["elements"][1]["user"]["probability_globally_sclerotic"] == 0.25


def test_names_that_are_half_a_character_do_not_end_the_file(tmp_path: Path) -> None:
    label = Label(id="\ud800", class_name='"\\\n\udfff')
    outline = build(label, "geojson", 0, [[[(0, 0), (9, 0), (9, 9)]]])
    assert qupath_problems(as_qupath([outline])) == []
    assert dsa_problems(as_dsa([outline])) == []


def test_outlines_without_a_shape_are_left_out() -> None:
    assert json.loads(as_qupath([failed(Label(), "geojson", 0, "x")]))["features"] == []
    assert as_dsa([failed(Label(), "geojson", 0, "x")])["elements"] == []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda element: element.update(probability=1), "probability is not listed"),
        (lambda element: element.update(id="17"), "id"),
        (lambda element: element.update(points=[[1, 2], [3, 4]]), "three numbers"),
        (lambda element: element.update(label={"text": "x"}), "label"),
        (lambda element: element.update(lineColor="red"), "lineColor"),
        (lambda element: element.pop("points"), "points is missing"),
    ],
)
def test_our_rules_of_the_archive_see_what_it_refuses(spoil: Any, expected: str, tmp_path: Path) -> None:
    written = as_dsa(read(tmp_path, encoded(dsa(polyline()))))
    assert dsa_problems(written) == []
    spoil(written["elements"][0])
    assert expected in " ".join(dsa_problems(written))
