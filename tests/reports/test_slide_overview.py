"""The overview of each slide in the report: marks on the right place, each a link to its crop."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.reports import slide_overview
from glomedge.runs.folder import Options, infer_folder
from helpers.drawn_slides import picture, write
from helpers.page_checks import HOSTILE, check_page
from helpers.qupath_rules import qupath_problems
from helpers.run_kit import table, write_crops
from helpers.slide_runs import SLIDES, outline, square, write_outlined


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    write_outlined(tmp_path / "slides")
    return Options(tmp_path / "slides", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"))


def overviews(page: str) -> list[ElementTree.Element]:
    """The drawings of slides, in order."""
    return [
        ElementTree.fromstring(each)
        for each in re.findall(r"<svg viewBox=.*?</svg>", page, re.DOTALL)
        if "<rect" in each and "<a " in each
    ]


def test_each_slide_is_shown_beside_its_case_with_a_link_from_each_glomerulus_to_its_crop(options: Options) -> None:
    outline(options.folder / SLIDES[1], square(1, 37, 91, 100), square(2, 2000, 10))
    infer_folder(options)
    rows, page = table(options.output), (options.output / "report.html").read_text("utf-8")
    check_page(page)
    drawings = overviews(page)
    assert [drawing.get("viewBox") for drawing in drawings] == ["0 0 900 700"] * 3
    figures = dict(re.findall(r'<figure id="(crop-\d+)" class="([^"]*)"', page))
    assert len(figures) == 15
    links = [link for drawing in drawings for link in drawing.iter("a")]
    assert {link.get("href") for link in links} == {f"#{identity}" for identity in figures}
    of_box = {
        (*(float(row[key]) for key in ("x", "y", "width", "height")), row["slide"]): row for row in rows if row["x"]
    }
    for drawing, name in zip(drawings, SLIDES, strict=True):
        marks = list(drawing.iter("rect"))
        assert len(marks) == (1 if name == SLIDES[1] else 7)
        for link, mark in zip(drawing.iter("a"), marks, strict=True):
            place = tuple(float(mark.get(key) or "nan") for key in ("x", "y", "width", "height"))
            row = of_box[(*place, name.removesuffix(".svs"))]
            called = {"1": "gs", "0": "other"}[row["label"]]
            assert mark.get("class") == called
            assert ("gs" in figures[(link.get("href") or "")[1:]].split()) == (row["label"] == "1")
    case = page.split('<section class="case"')[1]
    assert "S-1234-000001_PAS_1of2: 7 marked" in case
    assert "S-1234-000001_PAS_2of2: 1 of 2 marked" in case
    assert "S-5678-000002" not in case


def test_the_picture_is_that_of_the_slide(options: Options) -> None:
    infer_folder(options)
    page = (options.output / "report.html").read_text("utf-8")
    (image,) = overviews(page)[0].iter("image")
    data = base64.b64decode((image.get("href") or "").partition("base64,")[2])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown is not None
    assert max(shown.shape) == slide_overview.LONGER_SIDE_PX
    drawn = cv2.resize(picture(700, 900), (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - drawn).mean() < 6


def test_small_marks_can_be_hit_and_errors_lead_to_the_list(options: Options) -> None:
    slide = options.folder / SLIDES[2]
    outline(slide, square(1, 400, 300, 10))
    infer_folder(replace(options, folder=slide))
    (mark,) = overviews((options.output / "report.html").read_text("utf-8"))[0].iter("rect")
    assert [float(mark.get(key) or "nan") for key in ("x", "y", "width", "height")] == [396.9, 296.9, 16.2, 16.2]
    outline(slide, square(1, 400, 300), square(2, 899, 100))
    infer_folder(replace(options, folder=slide))
    page = (options.output / "report.html").read_text("utf-8")
    links = {link.get("href"): link.find("rect") for link in overviews(page)[0].iter("a")}
    failed = links["#errors"]
    assert failed is not None
    assert failed.get("class") == "none"
    assert "2 marked (" in page
    assert "1 without an answer)" in page


def test_pictures_are_limited_and_a_run_without_slides_has_none(
    options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(slide_overview, "MAX_OVERVIEWS", 2)
    infer_folder(options)
    page = (options.output / "report.html").read_text("utf-8")
    assert len(overviews(page)) == 2
    assert "2 of 3 slides are shown" in page
    write_crops(tmp_path / "crops", 3, broken=0)
    infer_folder(replace(options, folder=tmp_path / "crops", output=tmp_path / "plain"))
    page = (tmp_path / "plain" / "report.html").read_text("utf-8")
    assert 'class="slides"' not in page
    assert 'id="crop-' not in page


def test_a_slide_that_is_gone_when_the_report_is_written_shows_its_marks(options: Options) -> None:
    slide = write(options.folder / "S-9.svs")
    outline(slide, square(1, 400, 300))
    infer_folder(replace(options, folder=slide))
    from glomedge.runs.overviews import Overviews
    from glomedge.runs.slides import find_inputs

    inputs = find_inputs(replace(options, folder=slide))
    assert inputs.parts is not None
    slide.unlink()
    found = Overviews(inputs.parts)("S-9.svs")
    assert found == slide_overview.Overview(None, 0, 0, 900, 700, 1)


def test_an_id_as_an_attacker_would_choose_it(options: Options) -> None:
    slide = options.folder / SLIDES[2]
    outline(slide, square(1, 400, 300, id=HOSTILE), square(2, 100, 100, id="\u202egnp.\ud83d"))
    infer_folder(replace(options, folder=slide, formats=("csv", "jsonl", "geojson")))
    page = (options.output / "report.html").read_text("utf-8")
    check_page(page)
    assert len(list(overviews(page)[0].iter("rect"))) == 2
    assert table(options.output)[0]["annotation_id"] == HOSTILE
    assert qupath_problems((options.output / "annotations" / slide.name).with_suffix(".geojson").read_bytes()) == []
