"""From outlines to crops, and the folder of crops that ``glomedge crop`` writes."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest

from glomedge.cases.names import case_of
from glomedge.errors import ImageError, OutputError, UsageError
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.outline import Label, Outline, build, failed
from glomedge.slides.annotations.qupath_writer import write_qupath
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.crop_folder import cut_crops
from glomedge.slides.crops import box_of, cut, on_slide
from glomedge.slides.reader import Box, Slide
from helpers.drawn_slides import damage_tile, write
from helpers.odd_geojson import UUID, collection, feature

PLAIN = UUID.replace("-", "")
"""The same, as it stands in the name of a crop."""
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
    names = [f"{GS}/{stem}_{PLAIN.format(1)}.png", f"{NON_GS}/{stem}_{PLAIN.format(2)}.png"]
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
        f"{stem}_{PLAIN.format(1)}.png,1",
        f"{stem}_{PLAIN.format(2)}.png,0",
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
        f"{GS}/S-9-9_PAS_1of1_{PLAIN.format(3)}.png",
        f"{NON_GS}/S-1234-000001_PAS_1of2_{PLAIN.format(2)}.png",
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


class _Killed(BaseException):
    pass


class _Killer:
    """Ends the program before the given one of its changes to files that are seen from outside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = sys.maxsize
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self._counting(getattr(Path, name)))

    def _counting(self, change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **options: object) -> object:
            self.left -= 1
            if self.left == -1:
                raise _Killed
            return change(*arguments, **options)

        return changed


@pytest.mark.parametrize("again", [sys.maxsize, 1, 2, 3, 4, 5])
def test_a_run_killed_anywhere_leaves_every_listed_crop_and_no_other(
    again: int, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run that tidies up is killed, too."""
    other = write(tmp_path / "S-9-9_PAS_1of1.svs")
    both, changed, third = (tmp_path / f"{name}.geojson" for name in ("both", "changed", "third"))
    both.write_bytes(collection(placed(1, 20, 30), placed(2, 200, 30)))
    changed.write_bytes(collection(placed(2, 300, 30), placed(5, 400, 30, NON_GS)))
    third.write_bytes(collection(placed(3, 20, 30)))
    killer = _Killer(monkeypatch)

    def consistent(out: Path) -> bool:
        present = {name for name in files(out) if name.endswith(".png")}
        labels = list(csv.DictReader(io.StringIO((out / "public.csv").read_text())))
        assert {row["name"] for row in labels} <= {Path(name).name for name in present}, "even after a kill"
        assert {row["name"] for row in table(out)} <= present
        return len(labels) == len(present) == len(table(out))

    with Slide(slide_path) as one, Slide(other) as two:
        for kill_at in range(100):
            out = tmp_path / f"crops{kill_at}"
            killer.left = sys.maxsize
            cut_crops(one, both, out)
            cut_crops(two, third, out)
            killer.left, finished = kill_at, True
            for slide, outlines, next_kill in ((one, changed, again), (two, third, sys.maxsize)):
                try:
                    cut_crops(slide, outlines, out)
                except _Killed:
                    finished = False
                    consistent(out)
                    killer.left = next_kill
            killer.left = sys.maxsize
            cut_crops(two, third, out)
            assert consistent(out)
            if finished:
                break
    assert finished
    assert kill_at > 10


def test_the_first_run_on_a_folder_killed_anywhere(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer, kill_at = _Killer(monkeypatch), 0
    before, after = (tmp_path / f"{name}.geojson" for name in ("before", "after"))
    before.write_bytes(collection(placed(1, 20, 30), placed(2, 200, 30)))
    after.write_bytes(collection(placed(9, 20, 30)))
    with Slide(slide_path) as slide:
        while True:
            out = tmp_path / f"crops{kill_at}"
            killer.left = kill_at
            try:
                cut_crops(slide, before, out)
                break
            except _Killed:
                kill_at += 1
            killer.left = sys.maxsize
            cut_crops(slide, after, out)
            assert files(out) == ["crops.csv", f"{GS}/S-1234-000001_PAS_1of2_{PLAIN.format(9)}.png", "public.csv"]
    assert kill_at > 4


def test_another_slide_of_the_same_name_is_refused(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "1.svs")
    (tmp_path / "link.svs").symlink_to(tmp_path / "p1" / "1.svs")
    marked, out = marking(tmp_path, placed(1, 20, 30), placed(2, 200, 30)), tmp_path / "crops"
    with Slide(tmp_path / "p1" / "1.svs") as one, Slide(tmp_path / "p2" / "1.svs") as two:
        assert cut_crops(one, marked, out).replaced == 0
        before = files(out), (out / "crops.csv").read_bytes()
        with pytest.raises(UsageError, match=r"another slide of the name 1 \(.*p1/1\.svs\)\. Rename"):
            cut_crops(two, marked, out)
        assert before == (files(out), (out / "crops.csv").read_bytes())
        assert cut_crops(one, marked, out).replaced == 2
    assert {row["slide_path"] for row in table(out)} == {str((tmp_path / "p1" / "1.svs").resolve())}


@pytest.mark.parametrize("identity", ["a\rb", "a\nb", "\ud800", "\udc80\x00", "x" * 140_000, "a\u2028b\x85"])
def test_texts_of_a_file_cannot_break_the_table(identity: str, slide_path: Path, tmp_path: Path) -> None:
    properties = {"classification": {"name": f"{GS}: {identity}", "color": [1, 2, 3]}, "name": identity}
    hostile = feature(1, geometry={"coordinates": square(20, 30, 60)}, properties=properties) | {"id": identity}
    shapeless = {"type": "Feature", "id": identity, "geometry": {"type": identity}, "properties": properties}
    marked, out = marking(tmp_path, hostile, shapeless), tmp_path / "crops"
    with Slide(slide_path) as slide:
        for _ in range(2):
            cut_crops(slide, marked, out, [GS])
    rows = list(csv.DictReader(io.StringIO((out / "crops.csv").read_bytes().decode())))
    assert [row["status"] for row in rows] == ["ok", "error:outline"]
    assert all(len(row["annotation_id"]) <= 300 for row in rows)
    assert len((out / "crops.csv").read_text().splitlines()) == 3


def test_a_slide_with_a_line_end_in_its_name(tmp_path: Path) -> None:
    marked, out = marking(tmp_path, placed(1, 20, 30)), tmp_path / "crops"
    with Slide(write(tmp_path / "a\rb\n1.svs")) as slide:
        for _ in range(2):
            cut_crops(slide, marked, out)
    assert [row["slide"] for row in table(out)] == ["a-b-1"]


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
            text.replace(f"{GS}/S-1234-000001_PAS_1of2_{PLAIN.format(1)}", f"{GS}/../../precious")
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
    assert "Replaced 1 crop of an earlier run" in named.stdout
    assert summary["replaced"] == 0
    assert "0.5 microns per pixel (--mpp)" in named.stdout
