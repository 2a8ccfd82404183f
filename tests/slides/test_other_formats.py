"""Outlines of the Digital Slide Archive, ImageScope, ASAP, and tables of boxes."""

from __future__ import annotations

import io
import math
import random
import sys
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from glomedge.errors import AnnotationError
from glomedge.slides.annotations import aperio as aperio_module
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.reading import read_outlines
from helpers.annotation_files import HEX, SQUARE, aperio, asap, asap_annotation, dsa, encoded, layer, polyline, region

CORNERS = ((10, 20), (110, 20), (110, 140), (10, 140))
BOX = (10, 20, 110, 140)


def read(tmp_path: Path, data: bytes) -> list[Outline]:
    path = tmp_path / "annotations.anything"
    path.write_bytes(data)
    return list(read_outlines(path))


def one(tmp_path: Path, data: bytes) -> Outline:
    (outline,) = read(tmp_path, data)
    assert outline.error is None, outline.detail
    return outline


@pytest.mark.parametrize(
    "arranged",
    [
        dsa(polyline()),
        {"_id": "x", "annotation": dsa(polyline()), "groups": ["glomeruli"]},
        [{"_id": "x", "annotation": dsa(polyline())}],
        [dsa(polyline())],
        {"elements": [polyline()], "name": "my layer"},
        {"elements": [polyline()]},
    ],
)
def test_dsa_in_every_arrangement(arranged: Any, tmp_path: Path) -> None:
    outline = one(tmp_path, encoded(arranged))
    assert (outline.id, outline.label.class_name, outline.source) == (HEX.format(1), "glomeruli", "dsa")
    assert outline.bounds == BOX


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"group": "GS"}, "GS"),
        ({"group": "default", "label": {"value": "GS"}}, "GS"),
        ({"group": None, "label": {"value": "GS"}}, "GS"),
        ({"group": "default"}, "my layer"),
        ({"group": 3, "label": 4}, "my layer"),
    ],
)
@pytest.mark.parametrize("name_first", [True, False])
def test_the_class_of_an_element_is_its_group_its_label_or_its_layer(
    given: dict[str, Any], expected: str, name_first: bool, tmp_path: Path
) -> None:
    document = dsa(polyline(**given), polyline(2, group="other"))
    if not name_first:
        document["name"] = document.pop("name")
    outlines = read(tmp_path, encoded(document))
    assert [outline.label.class_name for outline in outlines] == [expected, "other"]
    assert [outline.place for outline in outlines] == [0, 1]


def test_shapes_of_the_archive_given_by_their_centre(tmp_path: Path) -> None:
    sized = {"center": [60, 80, 0], "width": 100, "height": 120, "rotation": 0}
    turned = {"center": [0, 0, 0], "width": 40, "height": 20, "rotation": math.pi / 2}
    elements = [
        {"type": "rectangle", **sized},
        {"type": "ellipse", **sized},
        {"type": "circle", "center": [60, 80, 0], "radius": 10},
        {"type": "rectangle", **turned},
        {"type": "ellipse", **turned},
    ]
    found = read(tmp_path, encoded(dsa(*elements)))
    boxes = [BOX, BOX, (50, 70, 70, 90), (-10, -20, 10, 20), (-10, -20, 10, 20)]
    for outline, box in zip(found, boxes, strict=True):
        assert outline.bounds == pytest.approx(box)
    assert found[1].bounds == BOX, "an upright ellipse has exactly the box it was drawn by"


@pytest.mark.parametrize(
    ("element", "error"),
    [
        ({"type": "point", "center": [1, 2, 0]}, "no_area"),
        (polyline(closed=False), "no_area"),
        ({"type": "heatmap", "points": []}, "no_area"),
        (polyline(points=None), "outline"),
        (polyline(points=[]), "outline"),
        (polyline(points=[[1, 2, 0], [3, 4, 0]]), "outline"),
        ({"type": "circle", "center": [1, 2, 0], "radius": -3}, "outline"),
        ({"type": "circle", "center": [1, "a", 0], "radius": 3}, "outline"),
        ({"type": "rectangle", "center": [1, 2, 0], "width": 3, "height": True, "rotation": 0}, "outline"),
        ({"type": "ellipse", "center": [1, 2, 0], "width": 3, "height": float("inf"), "rotation": 0}, "outline"),
        ({"type": "spiral"}, "outline"),
        ("text", "outline"),
    ],
)
def test_elements_that_are_no_outline_are_rows_of_their_own(element: Any, error: str, tmp_path: Path) -> None:
    outlines = read(tmp_path, encoded(dsa(element, polyline())))
    assert [outline.error for outline in outlines] == [error, None]


def test_a_hole_of_the_archive(tmp_path: Path) -> None:
    holes = [[[40, 40, 0], [60, 40, 0], [60, 60, 0]]]
    assert len(one(tmp_path, encoded(dsa(polyline(holes=holes)))).polygons[0].holes) == 1


def test_imagescope_polygon_rectangle_ellipse_and_ruler(tmp_path: Path) -> None:
    corners = (CORNERS[0], CORNERS[2])
    regions = [
        region(1, *CORNERS),
        region(2, *corners, Type=1),
        region(3, *CORNERS, Type=1),
        region(4, *corners, Type=2),
        region(5, *corners, Type=4),
        region(6, corners[0], Type=2),
        region(7),
    ]
    found = read(tmp_path, aperio(layer(*regions, name="Glomerulus")))
    assert [outline.error for outline in found] == [None, None, None, None, "no_area", "outline", "outline"]
    assert [outline.bounds for outline in found[:4]] == [BOX] * 4
    assert [outline.id for outline in found] == list("1234567")
    assert {outline.label.class_name for outline in found} == {"Glomerulus"}


def test_imagescope_coordinates_with_a_decimal_comma(tmp_path: Path) -> None:
    data = aperio(layer(region(1, *CORNERS))).replace(b'X="110"', b'X="110,5"')
    assert one(tmp_path, data).bounds == (10, 20, 110.5, 140)


def test_imagescope_holes_go_into_the_outline_they_lie_in(tmp_path: Path) -> None:
    inside = region(2, (40, 40), (60, 40), (60, 60), NegativeROA=1)
    astray = region(3, (400, 400), (600, 400), (600, 600), NegativeROA=1)
    other = region(4, *((x + 1000, y) for x, y in CORNERS))
    found = read(tmp_path, aperio(layer(astray, inside, region(1, *CORNERS), other, name="g")))
    assert [(outline.id, outline.error) for outline in found] == [("3", "outline"), ("1", None), ("4", None)]
    assert [len(outline.polygons[0].holes) for outline in found[1:]] == [1, 0]


def test_imagescope_holes_in_many_outlines(tmp_path: Path) -> None:
    """A hole is compared with what lies around it, not with every outline of its layer: counted in calls."""
    count, calls = 200, 0
    outer = [region(n, *((x + 200 * n, y) for x, y in CORNERS)) for n in range(count)]
    holes = [
        region(count + n, *((200 * n + x, y) for x, y in ((40, 40), (60, 40), (60, 60))), NegativeROA=1)
        for n in range(count)
    ]

    def counted(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == aperio_module.__file__

    data = aperio(layer(*outer, *holes, name="g"))
    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        found = read(tmp_path, data)
    finally:
        sys.setprofile(before)
    assert 0 < calls < 100 * count
    assert [outline.id for outline in found] == [str(n) for n in range(count)]
    for number, outline in enumerate(found):
        (hole,) = outline.polygons[0].holes
        assert hole.min(axis=0).tolist() == [200 * number + 40, 40]


def test_imagescope_two_holes_that_cross_and_one_as_large_as_its_outline(tmp_path: Path) -> None:
    crossing = [
        region(2, (40, 40), (60, 40), (60, 60), (40, 60), NegativeROA=1),
        region(3, (50, 50), (70, 50), (70, 70), (50, 70), NegativeROA=1),
    ]
    far = [(x + 1000, y) for x, y in CORNERS]
    whole = [region(4, *far), region(5, *far, NegativeROA=1)]
    found = read(tmp_path, aperio(layer(region(1, *CORNERS), *crossing, *whole, name="g")))
    assert [(outline.id, outline.flags, outline.bounds) for outline in found] == [
        ("1", ("repaired",), BOX),
        ("4", ("repaired",), (1010, 20, 1110, 140)),
    ]


@pytest.mark.parametrize(("text", "expected"), [("tubule", "tubule"), ("G12", ""), ("", "")])
def test_imagescope_text_is_a_class_where_the_layer_has_no_name(text: str, expected: str, tmp_path: Path) -> None:
    outline = one(tmp_path, aperio(layer(region(1, *CORNERS, Text=text), identity=3)))
    assert (outline.label.class_name, outline.label.name, outline.label.layer) == (expected, text, "3")


def test_asap(tmp_path: Path) -> None:
    annotations = [
        asap_annotation("Annotation 0", *CORNERS),
        asap_annotation("Annotation 1", *CORNERS, kind="Spline", group="None"),
        asap_annotation("Annotation 2", (3, 4), kind="Dot"),
    ]
    found = read(tmp_path, asap(*annotations))
    assert [outline.error for outline in found] == [None, None, "no_area"]
    assert [outline.label.class_name for outline in found] == ["glomeruli", "", "glomeruli"]
    assert found[0].id == "Annotation 0"
    assert found[0].polygons[0].exterior.tolist() == [list(point) for point in CORNERS], "in the order they tell"


@pytest.mark.parametrize(
    "text",
    [
        "minx,miny,width,height,prob_Tumor\n10,20,100,120,0.5\n",
        "x,y,width,height\r\n10,20,100,120\r\n",
        "x;y;width;height\n10,0;20;100;120\n",
        "\ufeffX\tY\tWidth\tHeight\n10\t20\t100\t120\n",
        '"id","class","x","y","width","height"\n"g1","GS","10","20","100","120"\n\n',
    ],
)
def test_tables_of_boxes(text: str, tmp_path: Path) -> None:
    outline = one(tmp_path, text.encode())
    assert (outline.bounds, outline.place, outline.source) == (BOX, 2, "csv")
    assert outline.label.class_name == ("GS" if "GS" in text else "")


def test_bad_rows_of_a_table_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = "1,2,x,4\n1,2,-3,4\n1,2,3\n1,2,3,0\n1,2,nan,4\n1,2,3,4\n"
    found = read(tmp_path, f"x,y,width,height\n{rows}".encode())
    assert [outline.error for outline in found] == ["outline"] * 5 + [None]
    assert [outline.place for outline in found] == [2, 3, 4, 5, 6, 7]


ENTITIES = (
    b'<!DOCTYPE Annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b'<Annotations><Annotation Name="&b;"/></Annotations>'
)
OUTSIDE = b'<!DOCTYPE Annotations [<!ENTITY a SYSTEM "file:///etc/hostname">]><Annotations>&a;</Annotations>'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ENTITIES, "entities"),
        (OUTSIDE, "entities"),
        (aperio(layer(region(1, *CORNERS)))[:-30], "damaged at line 1"),
        (b"<svg></svg>", "neither ImageScope"),
        (b"<Annotations>" + b"<a>" * 500, "nested too deeply"),
        (b'<Annotations Name="' + b"a" * (2 << 20), "more than 1 MB"),
        (b'<?xml version="1.0" encoding="shift_jis"?><Annotations/>', "encoding"),
        (b'<?xml version="1.0" encoding="nonsense"?><Annotations/>', "encoding"),
        (b'{"annotation":' * 3000 + b"{}" + b"}" * 3000, "nested too deeply"),
        (b'[{"annotation":{"annotation":{"elements":[]}}}]', "neither GeoJSON"),
        (b"x,y,width,height\n1,1,1,1\n" + b"1" * (2 << 20), "more than a million characters"),
        (b"name,score\na,1\n", "lacks x, y, width, height"),
        (b"x,minx,y,width,height\n1,1,1,1,1\n", "several columns for 'x'"),
        (b'x,y,width,height\n"1,2,3\n', "not a CSV file"),
        (b"\x89PNG\r\n", "PNG image"),
        (b"\0\1\2\3", "neither JSON nor XML"),
    ],
)
def test_files_that_are_refused_as_a_whole(data: bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=expected) as refusal:
        read(tmp_path, data)
    assert len(str(refusal.value)) < 500


def test_too_much_text_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    """Two gigabytes of XML in a small archive, by their measure: the limit is on what is unpacked."""
    import gzip

    path = tmp_path / "big.xml.gz"
    path.write_bytes(gzip.compress(b"<Annotations>" + b"<Annotation/>" * 400_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(AnnotationError, match="more than 4 MB of text"):
        list(read_outlines(path, max_bytes=4 << 20))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="there is no such file"):
        list(read_outlines(tmp_path / "nothing.json"))


def test_the_points_of_the_archive_are_three_dimensional(tmp_path: Path) -> None:
    assert one(tmp_path, encoded(dsa(polyline()))).polygons[0].exterior.tolist() == [point[:2] for point in SQUARE]


def _zipped(text: bytes) -> bytearray:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("outlinesä.csv", text)
    return bytearray(handle.getvalue())


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (6, 99, "cannot be unpacked here"),  # the version that is needed to unpack it
        (8, 0x01, "cannot be unpacked here"),  # encrypted
        (10, 97, "cannot be unpacked here"),  # WavPack
        (46 + 8, 0xFF, "is damaged"),  # a name that is not UTF-8, as it says of itself
        (42, 0x7F, "is damaged"),  # where the file begins
    ],
)
def test_a_damaged_or_unusual_archive_is_refused(offset: int, value: int, expected: str, tmp_path: Path) -> None:
    """Single bytes of the central directory (APPNOTE.TXT 4.3.12), each another exception of ``zipfile``."""
    data = _zipped(b"id,class,x,y,width,height\na,GS,1,2,3,4\n")
    assert one(tmp_path, bytes(data)).label.id == "a"
    data[data.rindex(b"PK\1\2") + offset] |= value
    with pytest.raises(AnnotationError, match=expected) as refusal:
        read(tmp_path, bytes(data))
    assert len(str(refusal.value)) < 500


def test_an_archive_of_random_damage_is_read_or_refused(tmp_path: Path) -> None:
    whole, rng = _zipped(b"id,class,x,y,width,height\n" + b"a,GS,1,2,3,4\n" * 40), random.Random(0)
    refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read(tmp_path, bytes(data))
        except AnnotationError:
            refused += 1
    assert refused > 300
