"""Odd GeoJSON files: each is read or refused as expected, and our rules of QuPath know what QuPath does with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glomedge.errors import AnnotationError
from glomedge.slides.annotations import source
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.reading import read_outlines
from helpers.odd_geojson import ODD_FILES, SQUARE, UUID, OddFile, collection, feature
from helpers.qupath_rules import qupath_problems


def read(tmp_path: Path, data: bytes) -> list[Outline]:
    path = tmp_path / "annotations.anything"
    path.write_bytes(data)
    return list(read_outlines(path))


def word(outline: Outline) -> str:
    return outline.error or "+".join(outline.flags) or "ok"


def test_the_table_is_as_long_as_what_was_tried() -> None:
    assert len(ODD_FILES) >= 46
    assert len({odd.name for odd in ODD_FILES}) == len(ODD_FILES)


@pytest.mark.parametrize("odd", ODD_FILES, ids=lambda odd: odd.name)
def test_it_is_read_or_refused(odd: OddFile, tmp_path: Path) -> None:
    if isinstance(odd.read, list):
        outlines = read(tmp_path, odd.data)
        assert [word(outline) for outline in outlines] == odd.read
        assert [outline.place for outline in outlines] == list(range(len(outlines)))
        assert all(outline.detail for outline in outlines if outline.error)
        assert all((outline.bounds is None) == (outline.error is not None) for outline in outlines)
    else:
        with pytest.raises(AnnotationError) as refusal:
            read(tmp_path, odd.data)
        assert re.search(odd.read, str(refusal.value))
        assert len(str(refusal.value)) < 500
        assert re.search(r"\b(Export|Save|Unpack|Give)\b", str(refusal.value)), "the message says what to do"


@pytest.mark.parametrize("odd", [odd for odd in ODD_FILES if odd.qupath], ids=lambda odd: odd.name)
def test_our_rules_know_what_qupath_does(odd: OddFile) -> None:
    kinds = {problem.split(":")[0] for problem in qupath_problems(odd.data)}
    expected = {"taken": set(), "refused": {"refused"}, "wrong": {"read wrongly"}}[odd.qupath or ""]
    assert kinds == expected


def test_what_stands_in_the_file_is_kept(tmp_path: Path) -> None:
    (outline,) = read(tmp_path, collection(feature(7, properties={"name": "third from left"})))
    assert (outline.id, outline.label.class_name, outline.label.name) == (
        UUID.format(7),
        "Glomerulus",
        "third from left",
    )
    assert (outline.source, outline.place) == ("geojson", 0)
    assert outline.bounds == (10.5, 20.0, 110.0, 140.25)
    assert outline.polygons[0].exterior.tolist() == SQUARE[0][:-1]


@pytest.mark.parametrize(
    ("classification", "expected"),
    [
        ({"name": "Glomerulus", "colorRGB": -65536}, "Glomerulus"),
        ({"names": ["Glomerulus", "sclerotic"], "color": [1, 2, 3]}, "Glomerulus: sclerotic"),
        ("Glomerulus", "Glomerulus"),
        (None, ""),
        ({}, ""),
        ([3], ""),
    ],
)
def test_the_class_in_all_its_forms(classification: object, expected: str, tmp_path: Path) -> None:
    (outline,) = read(tmp_path, collection(feature(properties={"classification": classification})))
    assert outline.label.class_name == expected


def test_a_kind_of_object_is_no_id(tmp_path: Path) -> None:
    kinds = ["PathDetectionObject", "PathAnnotationObject", "PathTileObject", 17, "x"]
    outlines = read(tmp_path, collection(*(feature(id=kind) for kind in kinds)))
    assert [outline.id for outline in outlines] == ["", "", "", "17", "x"]


def test_a_self_crossing_outline_keeps_its_box_and_its_parts(tmp_path: Path) -> None:
    crossing = [[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]]
    (outline,) = read(tmp_path, collection(feature(geometry={"coordinates": crossing})))
    assert outline.flags == ("repaired",)
    assert outline.bounds == (0, 0, 100, 100)
    assert len(outline.polygons) == 2


def test_objects_inside_objects_come_after_them(tmp_path: Path) -> None:
    nested = feature(
        1, properties={"childObjects": [feature(2, properties={"childObjects": [feature(3)]}), feature(4)]}
    )
    outlines = read(tmp_path, collection(nested, feature(5)))
    assert [outline.id for outline in outlines] == [UUID.format(number) for number in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_chunks_of_any_size_give_the_same(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, literals and escapes are cut anywhere."""
    special = feature(1, properties={"name": 'a"\\\u7cf8\n', "measurements": {"n": float("nan"), "i": float("-inf")}})
    data = collection(special, feature(2, geometry={"coordinates": [[[0.125, -1e-7], [1234567.25, 0], [5, 9]]]}))
    expected = read(tmp_path, data)

    whole = source.Source.read
    monkeypatch.setattr(source.Source, "read", lambda self, _: whole(self, size))
    found = read(tmp_path, data)
    assert [(outline.label, outline.bounds) for outline in found] == [(each.label, each.bounds) for each in expected]
    assert found[0].label.name == 'a"\\\u7cf8 ', "a line end is a blank"
