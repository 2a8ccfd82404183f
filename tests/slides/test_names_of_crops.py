"""The names of crops: which biopsy they tell, and that no two are the same."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glomedge.cases.names import CaseFinder, case_of
from glomedge.slides.annotations.outline import Label, Outline, build
from glomedge.slides.crop_names import CropNames
from helpers.odd_geojson import UUID


def outline(*points: tuple[float, float], source: Any = "dsa", **label: str) -> Outline:
    return build(Label(**label), source, 7, [[points]])


_IDS = {
    "uuid": [str(uuid.UUID(int=random.Random(n).getrandbits(128), version=4)) for n in range(3000)],
    "asap": [f"Annotation {n}" for n in range(300)],
    "hyphen": [f"G-{n}" for n in range(300)],
    "two numbers": [f"{n}-3" for n in range(300)],
    "number": [str(n) for n in range(1, 300)],
    "none": [""] * 100,
    "double": ["12-3", "G-12"] * 100,
}


@pytest.mark.parametrize("ids", _IDS)
@pytest.mark.parametrize(
    ("slide", "between", "case"),
    [
        ("S-1234-000001_PAS_1of2.svs", "", "S-1234-000001"),
        ("S21-7.svs", "S21-7/", "S21-7"),
        ("1.svs", "1/", "1"),
        ("Image_01.ndpi", "Image_01/", "Image_01"),
        ("Case_7.svs", "Case_7/", "Case_7"),
        ("K12-345_PAS.svs", "K12-345_PAS/", "K12-345_PAS"),
        ("K12.ome.tif", "K12/", "K12"),
    ],
)
def test_the_biopsy_is_found_from_the_path_of_a_crop(slide: str, between: str, case: str, ids: str) -> None:
    """By ``infer``, which has all names in view, and from one name alone."""
    names = CropNames(Path(slide))
    shape = outline((1, 2), (30, 2), (30, 40))
    given = [replace(shape, label=Label(id=identity), place=at) for at, identity in enumerate(_IDS[ids])]
    paths = [names.path_of(each)[0] for each in given]
    assert len({path.casefold() for path in paths}) == len(paths)
    assert all(path.startswith(f"unlabelled_glomeruli/{between}{names.slide}_") for path in paths)
    finder = CaseFinder(paths)
    assert {finder.case_of(path) for path in paths} == {(case, names.slide)}
    assert {case_of(path) for path in paths} == {(case, names.slide)}
    assert finder.warnings() == []


@pytest.mark.parametrize("slide", ["2026-11-25.svs", "20x.svs", "crop.svs"])
def test_a_slide_whose_name_tells_no_biopsy_has_crops_of_an_unknown_one(slide: str) -> None:
    """As docs/slides.md says; never the name of a class folder."""
    path, _ = CropNames(Path(slide)).path_of(outline((1, 2), (30, 2), (30, 40), id=UUID.format(1)))
    assert case_of(path).case == "unknown"


def test_no_two_crops_have_the_same_name() -> None:
    names = CropNames(Path("S-1_PAS_1of1.svs"))
    given = ["a", "A", "a", "../../etc/passwd", "x" * 500, "\ud800", "", "ap000008", "a"]
    paths = [
        names.path_of(replace(outline((1, 2), (30, 2), (30, 40), id=each), place=at))[0]
        for at, each in enumerate(given)
    ]
    assert len({path.casefold() for path in paths}) == len(given)
    assert all(".." not in path and len(path) < 200 and path.isascii() for path in paths)
