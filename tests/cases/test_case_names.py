"""Names as the tools write them, and what a whole folder of them says."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomedge.cases import CaseFinder, case_of
from glomedge.cases.text import tidy
from glomedge.errors import UsageError

ID = "0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        # QuPath, TileExporter: "%s [%s]" of the image's name and d, x, y, w, h, z, t (d, z and t only where not usual)
        ("S21-1234 [x=1,y=4,w=300,h=300].png", "S21-1234"),
        ("2026-11-25/S21-1234 [x=1,y=4,w=300,h=300].png", "S21-1234"),
        ("2026-11-25/S21-1234 [d=2,x=1,y=4,w=300,h=300].png", "S21-1234"),
        ("S21-1234 [d=1.98765,x=1,y=4,w=300,h=300,z=2,t=1].tif", "S21-1234"),
        ("S21-1234 [d=1,024,x=1,y=4,w=300,h=300]-labelled.png", "S21-1234"),
        ("S21-1234.svs [x=1,y=4,w=300,h=300].jpg", "S21-1234"),
        ("12-3_PAS_5of6 [x=1,y=4,w=300,h=300].jpg", "12-3"),
        ("S21 [left] [x=1,y=4,w=300,h=300].jpg", "S21 [left]"),
        # ... and scripts for it that are passed from hand to hand
        ("S21-1234-512 [1024,300,300].tif", "S21-1234"),
        ("S21-1234_(1.00,512,1024,300,300).png", "S21-1234"),
        # CLAM, TRIDENT
        ("S21-1234/20x/1_4.png", "S21-1234"),
        ("S21-1234/40X/1_4.png", "S21-1234"),
        ("20x_256px_0px_overlap/patches/S21-1234/1024_2048.png", "S21-1234"),
        ("S21-1234_1024_2048.png", "S21-1234"),
        ("S21-1234.svs_1024_2048.png", "S21-1234"),
        ("S21-1234_x_1024_y_2048.png", "S21-1234"),
        ("S21-1234_x1024_y2048_w256_h256.png", "S21-1234"),
        ("S21-1234_512_1024_256_256.png", "S21-1234"),
        # WSInfer names everything by the slide and cuts nothing itself; people's scripts for its coordinates
        ("patches/S21-1234/512_1024.jpg", "S21-1234"),
        ("S21-1234-100-456.png", "S21-1234"),
        # HistomicsTK on the Digital Slide Archive
        (f"S21-1234_id-{ID}_left-7053_top-53967_bottom-54231_right-7311.png", "S21-1234"),
        ("S21-1234_left-7053_top-53967_mag-BASE.png", "S21-1234"),
        # <biopsy>_<stain>_<i>of<n>_<id>
        (f"S-1234-000001_PAS_1of2_{ID}.png", "S-1234-000001"),
        ("S-1234-000001_PAS_1of2/20x/7_8.png", "S-1234-000001"),
        # OpenSlide's DeepZoom
        ("S21-1234_files/14/3_7.jpeg", "S21-1234"),
        # suffixes
        ("K1-1.tif", "K1"),
        ("K1-2.ome.tif", "K1"),
        ("K1-3.OME.TIFF", "K1"),
        # blanks and Unicode
        ("K1 /crop.png", "K1"),
        ("K1 -3.png", "K1"),
        ("K1\u00a0/crop.png", "K1"),
        ("Mu\u0308ller-3.png", "M\u00fcller"),
        # words that say what a file is, not whose
        ("B7/crop-3.png", "B7"),
        ("B7/glomerulus_12.png", "B7"),
        ("B7/tile_100_200.png", "B7"),
        ("B7/crop 3.png", "B7"),
        # Windows numbers files that are renamed together
        ("S21-1234 (7).png", "S21-1234"),
    ],
)
def test_names_of_each_tool(name: str, case: str) -> None:
    assert case_of(name).case == case


@pytest.mark.parametrize(
    "folder",
    [
        "20x", "40X", "x20", "10.0x", "20x_256px_0px_overlap", "mag-20", "0.5mpp", "2026-11-25", "2026_11_25",
        "20261125", "25.11.2026", "11-25-2026", "2026-11-25_13-45", "2026-11-25 134500", "2026-11", "night_2026-11-25",
        "globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli", "patches", "Tiles", "crops", "train",
    ],
)  # fmt: skip
def test_folders_that_are_no_biopsy(folder: str) -> None:
    assert case_of(f"{folder}/crop.png").case == "unknown"
    assert case_of(f"B7/{folder}/crop.png").case == "B7"
    assert case_of(f"{folder}/B7/crop.png").case == "B7"


@pytest.mark.parametrize("folder", ["B7", "S21-1234", "12-3", "12-3-21", "VUHSK_1992", "Smith 2026-11-25", "2x4"])
def test_folders_that_may_be_a_biopsy(folder: str) -> None:
    assert case_of(f"{folder}/crop.png").case == folder


def cases(names: list[str]) -> set[str]:
    """The biopsies of a folder."""
    finder = CaseFinder(names)
    return {finder.case_of(name).case for name in names}


def test_coordinates_make_no_biopsy_of_each_x() -> None:
    spots = [(100 + 371 * k, 456 + 913 * k) for k in range(9)]
    for form in ("{}-{}-{}.png", "{}_{}_{}.png", "{}_{}-{}.png", "{}-{}_{}.png"):
        names = [form.format(slide, x, y) for slide in ("S21-1234", "S21-1300") for x, y in spots]
        assert cases(names) == {"S21-1234", "S21-1300"}, form
    assert cases([f"S21-1234-{x}-{y}.png" for x in range(0, 1024, 256) for y in range(0, 1024, 256)]) == {"S21-1234"}
    assert cases([f"S21-1234/{x}-{y}.png" for x, y in spots]) == {"S21-1234"}


def test_boxes_end_in_four_numbers() -> None:
    names = [f"S21_1234_{100 + 31 * k}_{456 + 91 * k}_300_200.png" for k in range(6)]
    assert cases(names) == {"S21_1234"}


def test_running_numbers_behind_ids_with_numbers() -> None:
    for ids in (
        ["S-1-2", "S-1-3"],
        ["12-345", "12-346"],
        ["S-1234-000001", "S-1234-000002"],
        ["SESCAM_1_0", "SAS_2_001"],
    ):
        assert cases([f"{case}-{k}.png" for case in ids for k in range(1, 30)]) == set(ids)
        # Some of them, as after a selection; one crop of each
        assert cases([f"{case}-{k}.png" for case in ids for k in (3, 11, 17, 42)]) == set(ids)
        assert cases([f"{case}-1.png" for case in ids]) == set(ids)
    # A large biopsy reaches 110.
    assert cases([f"VUHSK_{case}-{k}.png" for case in (1912, 1352) for k in range(0, 111, 10)]) == {
        "VUHSK_1912", "VUHSK_1352"
    }  # fmt: skip


def test_the_summary_counts_and_guesses_are_loud() -> None:
    plain = CaseFinder([f"K1-{k}.png" for k in range(12)])
    assert plain.sentences() == ["How the 1 biopsy was found: 12 crops: by name (running number)."]
    assert plain.found_by() == {"running number": 12}
    mixed = CaseFinder([*(f"K1-{k}.png" for k in range(12)), "2026-11-25/x.png", "B7/y.png"])
    assert mixed.summary() == (
        "How the 2 biopsies were found: 12 crops: by name (running number); 1 crop: from the folder 'B7'; 1 crop: "
        "no biopsy found, pooled as 'unknown'."
    )
    assert mixed.found_by() == {"folder": 1, "running number": 12, "unknown": 1}
    warning, dated = mixed.warnings()
    assert warning.startswith("CHECK: the name of 1 crop does not identify a biopsy")
    assert dated.startswith("CHECK: a date is not taken for a biopsy ('2026-11-25'), and nothing else tells that of 1 ")
    # Folders alone are a layout, not a guess.
    assert CaseFinder([f"B{k % 3}/crop{k}.png" for k in range(12)]).warnings() == []
    (doubt,) = CaseFinder(["K1_2_3.png", "K1_2_4.png"]).warnings()
    assert "2 crops are ambiguous" in doubt
    assert "K1_2_3.png -> K1" in doubt
    (single,) = CaseFinder([f"B{k}/crop.png" for k in range(40)]).warnings()
    assert "40 crops gave 40 biopsies" in single
    (twins,) = CaseFinder(["k1-1.png", "K1-2.png"]).warnings()
    assert "K1/k1" in twins


def test_a_pattern_that_fits_no_name_or_only_some() -> None:
    names = [f"B{k}_x.png" for k in range(3)] + [f"odd{k}.png" for k in range(7)]
    with pytest.raises(UsageError, match=r"matches none of the 10 names, such as B0_x\.png"):
        CaseFinder(names, r"^(?P<case>X\d)_")
    finder = CaseFinder(names, r"^(?P<case>B\d)_")
    assert finder.found_by() == {"pattern": 3, "unknown": 7}
    (warning,) = finder.warnings()
    assert "does not match 7 of 10 names: odd0.png, odd1.png, odd2.png, odd3.png, odd4.png ..." in warning
    assert CaseFinder([], r"^(?P<case>B\d)_").found_by() == {}
    assert CaseFinder(["Mu\u0308-1.png"], "^(?P<case>Mu\u0308)").case_of("M\u00fc-1.png").case == "M\u00fc"


def test_one_name_in_two_forms_is_one_biopsy() -> None:
    assert cases(["Mu\u0308ller-1.png", "M\u00fcller-2.png", "M\u00fcller -3.png", "M\u00fcller\u200b-4.png"]) == {
        "M\u00fcller"
    }


_NAME = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("-_.[]()=,xy0123456789 /"), max_size=40)


@given(st.lists(_NAME, max_size=12))
def test_any_folder_has_cases_that_do_not_depend_on_order_or_form(names: list[str]) -> None:
    finder = CaseFinder(names)
    assert sum(finder.found_by().values()) == len(names)
    backwards = CaseFinder(names[::-1])
    for name in names:
        found = finder.case_of(name)
        assert found.case
        assert found.case == tidy(found.case)
        assert found.slide.startswith(found.case)
        assert backwards.case_of(name) == found
        assert finder.case_of(unicodedata.normalize("NFC", name)) == found
    assert all(len(sentence) <= 2000 for sentence in finder.sentences())


_SLIDE = st.from_regex(r"[A-Z][A-Z0-9]{0,6}(-[0-9]{1,5})?", fullmatch=True).filter(
    lambda slide: slide.strip(string.ascii_uppercase) != "" and "OF" not in slide
)


@given(_SLIDE, st.integers(0, 99_999), st.integers(0, 99_999), st.sampled_from(["", "2026-11-25/", "20x/", "B7/"]))
def test_regions_of_any_slide(slide: str, x: int, y: int, folder: str) -> None:
    for form in (
        "{} [x={},y={},w=300,h=300]",
        "{} [d=2.5,x={},y={},w=9,h=9]",
        "{}_x{}_y{}",
        "{}_left-{}_top-{}_mag-20",
    ):
        assert case_of(f"{folder}{form.format(slide, x, y)}.png") == (slide, slide)


def test_one_crop_is_said_in_the_singular() -> None:
    many = [f"S21-{number}-{x}.png" for number in range(3) for x in range(5)]
    (note,) = CaseFinder([*many, "a_b/x.png"]).warnings()
    assert note.startswith("CHECK: the name of 1 crop does not identify a biopsy, unlike the others; it is assigned to")
    (note,) = CaseFinder(["case (3).png"]).warnings()
    assert note.startswith("CHECK: the name of 1 crop is ambiguous")


def test_a_date_is_said_to_be_no_biopsy() -> None:
    finder = CaseFinder([f"2026-11-25/crop{letter}.png" for letter in "abcdef"])
    assert {finder.case_of("2026-11-25/cropa.png")} == {("unknown", "unknown")}
    assert finder.summary() == "No biopsy was found: 6 crops, pooled as 'unknown'."
    (note,) = finder.warnings()
    assert note == (
        "CHECK: a date is not taken for a biopsy ('2026-11-25'), and nothing else tells that of 6 crops. If each such "
        "folder is one biopsy, give --case-pattern '(?P<case>[^/]+)/[^/]+$'."
    )
    advised = "(?P<case>[^/]+)/[^/]+$"
    assert CaseFinder(["2026-11-25/cropa.png"], advised).case_of("2026-11-25/cropa.png").case == "2026-11-25"
    mixed = CaseFinder(["B1_PAS_1of3_a.png", "2026-11-25/cropa.png"])
    assert mixed.summary().startswith("How the 1 biopsy was found: 1 crop: by name")
    assert mixed.summary().endswith("; 1 crop: no biopsy found, pooled as 'unknown'.")
    assert any("of 1 crop." in note for note in mixed.warnings())


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("S-1.svs#0000007_0123456789abcdef01234567", "S-1"),
        ("S-1.svs#0000007_17", "S-1"),
        ("S-1.svs#0000007", "S-1"),
        ("S-1.svs#", "S-1"),
        ("night/S-1234-000001_PAS_1of2.ome.tif#0000001_a-b", "S-1234-000001"),
        ("S21_100_200.mrxs#0000001_5", "S21_100_200"),
        ("B7/image.svs#0000001_5", "B7"),
        ("image.svs#0000001_5", "unknown"),
        # No outline: a file has a suffix.
        ("S-1.svs#0000007_17.png", "S-1.svs#0000007"),
    ],
)
def test_an_outline_on_a_slide_has_the_biopsy_of_the_slide(name: str, case: str) -> None:
    assert case_of(name).case == case


def test_outlines_of_many_slides_are_no_coordinates() -> None:
    names = [f"S-{slide}.svs#{place:07d}_{place * 37}" for slide in range(5) for place in range(1, 30)]
    crops = [f"K1-{number}.png" for number in range(9)]
    finder = CaseFinder([*names, *crops])
    assert {finder.case_of(name).case for name in names} == {f"S-{slide}" for slide in range(5)}
    assert [found.case for found in finder.cases_of(names)] == [f"S-{name[2]}" for name in names]
    assert finder.found_by() == {"running number": 9, "slide": 145}
    assert "154 crops: by name (the slide's: 145, running number: 9)" in finder.summary()
    assert finder.warnings() == []
    by_pattern = CaseFinder(names, r"^(?P<case>S)-(?P<slide>[0-9])")
    assert by_pattern.case_of(names[0]) == ("S", "0")
