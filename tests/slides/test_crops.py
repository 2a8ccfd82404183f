"""From outlines to crops, and the folder of crops that ``glomedge crop`` writes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest

from glomedge.cases.names import case_of
from glomedge.errors import ImageError, OutputError, UsageError
from glomedge.slides import crop_folder
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.outline import Label, Outline, build, failed
from glomedge.slides.annotations.qupath_writer import write_qupath
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.crop_folder import cut_crops
from glomedge.slides.crop_names import CropNames
from glomedge.slides.crops import box_of, cut, on_slide
from glomedge.slides.reader import Box, Slide
from helpers.drawn_slides import damage_tile, write
from helpers.odd_geojson import UUID, collection, feature

GS, NON_GS = "globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli"


def outline(*points: tuple[float, float], source: Any = "dsa", **label: str) -> Outline:
    return build(Label(**label), source, 7, [[points]])


def square(x: float, y: float, side: float) -> list[list[list[float]]]:
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def placed(number: int, x: float, y: float, class_name: str = GS, side: float = 60) -> dict[str, Any]:
    properties = {"classification": {"name": class_name, "color": [1, 2, 3]}}
    return feature(number, geometry={"coordinates": square(x, y, side)}, properties=properties)


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    return write(tmp_path / "S-1234-000001_PAS_1of2.svs")


def marking(tmp_path: Path, *features: Any) -> Path:
    path = tmp_path / "a.geojson"
    path.write_bytes(collection(*features))
    return path


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("."))


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "crops.csv").read_text())))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (((10, 20), (110, 20), (110, 140)), Box(10, 20, 100, 120)),
        (((10.99, 20.01), (110.99, 30), (50, 140.01)), Box(10, 20, 100, 120)),
        (((-3.5, -0.5), (9, 4), (2, 8.5)), Box(-4, -1, 13, 9)),
    ],
)
def test_the_box_is_the_integer_part_of_the_smallest_and_largest_coordinates(
    points: tuple[tuple[float, float], ...], expected: Box
) -> None:
    assert box_of(outline(*points)) == expected


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (failed(Label(), "dsa", 0, "it has no points"), "outline"),
        (failed(Label(), "dsa", 0, "it is a point", "no_area"), "no_area"),
        (outline((1.1, 5), (1.9, 5), (1.5, 90)), "too_small"),
    ],
)
def test_outlines_without_a_box(bad: Outline, code: str) -> None:
    with pytest.raises(ImageError) as refusal:
        box_of(bad)
    assert refusal.value.code == code


def test_only_qupath_counts_from_the_scanned_part(slide_path: Path, tmp_path: Path) -> None:
    """In and out of QuPath an outline keeps its coordinates; the crop is cut where the slide has it."""
    with Slide(slide_path) as slide:
        slide.info = replace(slide.info, bounds=Box(120, 80, 500, 400))
        points = ((10, 20), (110, 20), (110, 140), (10, 140))
        from_qupath, from_archive = (on_slide(outline(*points, source=source), slide) for source in ("geojson", "dsa"))
        assert cut(slide, from_qupath).box == Box(130, 100, 100, 120)
        assert cut(slide, from_archive).box == Box(10, 20, 100, 120)
        handle = io.BytesIO()
        note = RunNote("m", "0", 0.5, ("no", "yes"))
        write_qupath(handle, [AnsweredOutline(from_qupath, "ok", 1.0, 1)], note, slide.qupath_origin_px)
    (tmp_path / "back").write_bytes(handle.getvalue())
    (back,) = read_outlines(tmp_path / "back")
    assert back.bounds == (10, 20, 110, 140)


def test_crops_are_the_pixels_of_read_region_under_the_users_names(slide_path: Path, tmp_path: Path) -> None:
    marked = marking(tmp_path, placed(1, 20.5, 30.5), placed(2, 200, 300, NON_GS), placed(3, 400, 100, "tubules"))
    out = tmp_path / "crops"
    with Slide(slide_path) as slide:
        done = cut_crops(slide, marked, out)
    stem = "S-1234-000001_PAS_1of2"
    names = [f"{GS}/{stem}_{UUID.format(1)}.png", f"{NON_GS}/{stem}_{UUID.format(2)}.png"]
    assert files(out) == sorted([*names, "crops.csv", "public.csv"])
    assert (done.crops, done.labels, done.errors) == (2, (1, 1), {})
    assert done.choice.left_out == {"tubules": 1}
    with openslide.OpenSlide(str(slide_path)) as plain:
        for name, place in zip(names, [(20, 30), (200, 300)], strict=True):
            expected = np.asarray(plain.read_region(place, 0, (60, 60)))[..., :3]
            written = cv2.imread(str(out / name))
            assert written is not None
            np.testing.assert_array_equal(written[..., ::-1], expected)
            assert case_of(Path(name).name) == ("S-1234-000001", stem)
    assert (out / "public.csv").read_text().splitlines() == [
        "name,ground truth",
        f"{stem}_{UUID.format(1)}.png,1",
        f"{stem}_{UUID.format(2)}.png,0",
    ]


def test_every_outline_has_a_row_and_a_bad_one_does_not_end_the_run(slide_path: Path, tmp_path: Path) -> None:
    crossing = feature(3, geometry={"coordinates": [[[300, 300], [400, 400], [400, 300], [300, 400], [300, 300]]]})
    crossing["properties"]["classification"] = GS
    point = feature(4, geometry={"type": "Point", "coordinates": [3, 4]}, properties={"classification": GS})
    damage_tile(slide_path, 8)
    marked = marking(
        tmp_path, placed(1, 20, 30), placed(2, 5000, 30), crossing, point, placed(5, 870, 600), placed(6, 500, 500)
    )
    with Slide(slide_path) as slide:
        done = cut_crops(slide, marked, tmp_path / "crops")
    rows = table(tmp_path / "crops")
    assert [row["status"] for row in rows] == [
        "error:corrupt",
        "error:outside",
        "flagged:repaired",
        "error:no_area",
        "flagged:at_edge",
        "ok",
    ]
    assert [row["annotation_id"] for row in rows] == [UUID.format(number) for number in range(1, 7)]
    assert [bool(row["message"]) for row in rows] == [True, True, False, True, False, False]
    assert (rows[4]["x"], rows[4]["width"], rows[4]["height"], rows[4]["mpp"]) == ("870", "30", "60", "0.25")
    assert (done.crops, done.at_edge, done.repaired) == (3, 1, 1)
    assert done.errors == {"corrupt": 1, "no_area": 1, "outside": 1}


def test_several_slides_go_into_one_folder_and_a_slide_replaces_its_own(slide_path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "S-9-9_PAS_1of1.svs")
    out = tmp_path / "crops"
    with Slide(slide_path) as one, Slide(other) as two:
        cut_crops(one, marking(tmp_path, placed(1, 20, 30), placed(2, 200, 30)), out)
        cut_crops(two, marking(tmp_path, placed(3, 20, 30)), out)
        cut_crops(one, marking(tmp_path, placed(2, 300, 30, NON_GS)), out)
    assert files(out) == sorted([
        f"{GS}/S-9-9_PAS_1of1_{UUID.format(3)}.png",
        f"{NON_GS}/S-1234-000001_PAS_1of2_{UUID.format(2)}.png",
        "crops.csv",
        "public.csv",
    ])  # fmt: skip
    assert len((out / "public.csv").read_text().splitlines()) == 3


def test_without_labels_there_is_no_table_of_labels(slide_path: Path, tmp_path: Path) -> None:
    with Slide(slide_path) as slide:
        done = cut_crops(slide, marking(tmp_path, placed(1, 20, 30, "Glomerulus")), tmp_path / "crops")
    assert files(tmp_path / "crops")[1].startswith("unlabelled_glomeruli/")
    assert not (tmp_path / "crops" / "public.csv").exists()
    assert done.labels == (0, 0)


def test_a_killed_run_leaves_nothing_unlisted(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "crops"
    marked = marking(tmp_path, placed(1, 20, 30), placed(2, 200, 30))
    fine = crop_folder._CropFolder._write_tables

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with Slide(slide_path) as slide:
        monkeypatch.setattr(crop_folder._CropFolder, "_write_tables", killed)
        with pytest.raises(KeyboardInterrupt):
            cut_crops(slide, marked, out)
        assert len(files(out)) == 2
        assert not (out / "public.csv").exists()
        monkeypatch.setattr(crop_folder._CropFolder, "_write_tables", fine)
        cut_crops(slide, marking(tmp_path, placed(9, 20, 30)), out)
    assert files(out) == ["crops.csv", f"{GS}/S-1234-000001_PAS_1of2_{UUID.format(9)}.png", "public.csv"]


def test_labels_of_somebody_else_are_not_touched(slide_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    out.mkdir()
    (out / "public.csv").write_text("name,ground truth\n")
    with Slide(slide_path) as slide:
        marked = marking(tmp_path, placed(1, 20, 30))
        with pytest.raises(UsageError, match=r"already holds a public\.csv"):
            cut_crops(slide, marked, out)
        (out / "crops.csv").write_text("name,x\n../../precious.png,1\n")
        with pytest.raises(UsageError, match="not written by glomedge crop"):
            cut_crops(slide, marked, out)
    assert (out / "public.csv").read_text() == "name,ground truth\n"


def test_an_edited_table_removes_nothing_but_crops(slide_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    precious = tmp_path / "precious.png"
    precious.write_bytes(b"x")
    with Slide(slide_path) as slide:
        marked = marking(tmp_path, placed(1, 20, 30))
        cut_crops(slide, marked, out)
        text = (out / "crops.csv").read_text()
        (out / "crops.csv").write_text(
            text.replace(f"{GS}/S-1234-000001_PAS_1of2_{UUID.format(1)}", f"{GS}/../../precious")
        )
        cut_crops(slide, marked, out)
    assert precious.exists()


def test_two_runs_at_once(slide_path: Path, tmp_path: Path) -> None:
    from glomedge.files.lock import OutputLock

    work = tmp_path / "crops" / ".glomedge-crop"
    work.mkdir(parents=True)
    with (
        OutputLock(work / "lock"),
        Slide(slide_path) as slide,
        pytest.raises(OutputError, match=r"Another run .*crops"),
    ):
        cut_crops(slide, marking(tmp_path, placed(1, 20, 30)), tmp_path / "crops")


@pytest.mark.parametrize(
    ("slide", "folder"),
    [
        ("S-1234-000001_PAS_1of2.svs", ""),
        ("S21-7.svs", "S21-7/"),
        ("K12.ome.tif", "K12/"),
    ],
)
def test_the_biopsy_is_found_from_the_path_of_a_crop(slide: str, folder: str) -> None:
    names = CropNames(Path(slide))
    for identity in (UUID.format(1), "5f3a00000000000000000001", "", "Annotation 3"):
        path, label = names.path_of(outline((1, 2), (30, 2), (30, 40), id=identity, class_name="Glomerulus"))
        assert path.startswith(f"unlabelled_glomeruli/{folder}{names.slide}_")
        assert label is None
        if folder or identity:
            assert case_of(path).slide in (names.slide, f"{names.slide}_Annotation")


def test_no_two_crops_have_the_same_name() -> None:
    names = CropNames(Path("S-1_PAS_1of1.svs"))
    given = ["a", "A", "a", "../../etc/passwd", "x" * 500, "\ud800", ""]
    paths = [
        names.path_of(replace(outline((1, 2), (30, 2), (30, 40), id=each), place=at))[0]
        for at, each in enumerate(given)
    ]
    assert len({path.casefold() for path in paths}) == len(given)
    assert all(".." not in path and len(path) < 200 and path.isascii() for path in paths)


def test_json_of_the_command(slide_path: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from glomedge.cli import build

    marked = marking(tmp_path, placed(1, 20, 30), placed(2, 5000, 30), placed(3, 300, 300, "Mine"))
    arguments = ["crop", str(slide_path), "-a", str(marked), "-o", str(tmp_path / "crops"), "--json"]
    done = CliRunner().invoke(build(["crop"]), arguments)
    assert done.exit_code == 2, "an outline has an error"
    document = json.loads(done.stdout)
    (summary,) = document["slides"]
    assert (summary["crops"], summary["errors"], summary["classes_left_out"]) == (1, {"outside": 1}, {"Mine": 1})
    assert "Research use only" in document["notice"]
    named = CliRunner().invoke(build(["crop"]), [*arguments[:-1], "--class", "mine", "--mpp", "0.5"])
    assert named.exit_code == 0
    assert ": 1 crop (" in named.stdout
    assert "0.5 microns per pixel (--mpp)" in named.stdout
