"""Which file a listed name means."""

from __future__ import annotations

import pytest

from glomedge.cases.matching import class_folder_label, copies, match_files

GS, NGS = "globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli"
FILES = [
    f"{GS}/a.png",
    f"{NGS}/B.PNG",
    f"{GS}/S1/1_4.png",
    f"{GS}/S2/1_4.png",
    f"{NGS}/Mu\u0308ller-1.tif",
    "x/k.ome.tif",
]


@pytest.mark.parametrize(
    ("name", "place", "how"),
    [
        ("a.png", 0, None),
        ("a", 0, "without their suffix"),
        ("a.PNG", 0, "with a suffix in different letter case"),
        ("B.png", 1, "with a suffix in different letter case"),
        ("B", 1, "without their suffix"),
        ("S1/1_4.png", 2, None),
        ("S2\\1_4.png", 3, None),
        ("S2/1_4", 3, "without their suffix"),
        (f"{GS}/S1/1_4.png", 2, None),
        ("./a.png", 0, None),
        ("/data/crops/globally_sclerotic_glomeruli/a.png", 0, None),
        ("M\u00fcller-1.tif", 4, None),
        ("Mu\u0308ller-1", 4, "without their suffix"),
        ("x/k.ome.tif", 5, None),
    ],
)
def test_a_name_that_can_mean_one_file_only(name: str, place: int, how: str | None) -> None:
    found = match_files([name], FILES)
    assert found.file_of == {name: place}
    assert dict(found.relaxed) == ({how: 1} if how else {})
    assert found.notes("public.csv") == ([f"1 name in public.csv was found {how}."] if how else [])


def test_what_can_mean_no_file_or_several() -> None:
    names = ["b.png", "S3/1_4.png", "1_4.png", "1_4", "A.png", "a.jpg", ""]
    found = match_files(names, FILES)
    assert found.file_of == {}
    assert found.ambiguous == {"1_4.png": [2, 3], "1_4": [2, 3]}
    assert found.missing == ["b.png", "S3/1_4.png", "A.png", "a.jpg", ""]


def test_a_class_folder_in_the_table_tells_two_files_apart() -> None:
    files = [f"{GS}/S1/1_4.png", f"{NGS}/S1/1_4.png"]
    assert match_files(["S1/1_4.png"], files).ambiguous == {"S1/1_4.png": [0, 1]}
    assert match_files([f"{NGS}/S1/1_4.png"], files).file_of == {f"{NGS}/S1/1_4.png": 1}


def test_two_names_of_one_file() -> None:
    assert match_files(["a", "a.png"], FILES).shared == {0: ["a", "a.png"]}


def test_exact_names_come_first() -> None:
    files = ["a.png", "a.PNG", "a.tif", "u\u0308.png", "\u00fc.png"]
    assert match_files(["a.png", "a.PNG", "u\u0308.png", "\u00fc.png"], files).file_of == {
        "a.png": 0, "a.PNG": 1, "u\u0308.png": 3, "\u00fc.png": 4
    }  # fmt: skip
    assert match_files(["a"], files).ambiguous == {"a": [0, 1, 2]}


def test_the_nearest_class_folder_says_the_label() -> None:
    assert [class_folder_label(path) for path in (*FILES[:3], "a.png", f"{GS}/{NGS}/a.png")] == [1, 0, 1, None, 0]


def test_copies_that_contradict_each_other() -> None:
    crops = [
        ("a", "1", 0, "A"),
        ("b", "1", 1, "A"),
        ("c", "2", 0, "A"),
        ("d", "2", 0, "B"),
        ("e", "3", 1, "C"),
        ("f", "3", 1, "C"),
    ]
    assert copies(crops) == (["a (label 0) = b (label 1)"], ["c (biopsy A) = d (biopsy B)"])
