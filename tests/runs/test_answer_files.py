"""``--format geojson`` and ``dsa``: answers that the viewers take, on the right glomerulus."""

from __future__ import annotations

import hashlib
import io
import json
import signal
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import shapely.geometry

from glomedge.engine.options import EngineOptions
from glomedge.errors import OutputError, UsageError
from glomedge.files.writing import Staged
from glomedge.results.journal import read_journal
from glomedge.runs.answer_files import AnswerFiles
from glomedge.runs.folder import Options, infer_folder
from glomedge.slides import reader
from glomedge.slides.annotations import dicom_sr
from glomedge.slides.reader import Box, SlideInfo
from helpers.annotation_files import dsa, encoded, polyline
from helpers.drawn_slides import write
from helpers.dsa_rules import dsa_problems
from helpers.many_outlines import peak_bytes
from helpers.qupath_rules import qupath_problems
from helpers.run_kit import KillAt, run_in_child, table
from helpers.slide_runs import SLIDES, outline, square, squares, write_outlined

STEMS = [name.removesuffix(".svs") for name in SLIDES]


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    """A run over a folder of three slides that writes both formats, not begun."""
    write_outlined(tmp_path / "slides")
    return Options(
        tmp_path / "slides", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"), formats=("geojson", "dsa"),
        report=False,
    )  # fmt: skip


def dicom_slide(folder: Path) -> Path:
    """A drawn one; skips where pydicom and highdicom are not installed (the extra ``dicom``)."""
    pytest.importorskip("highdicom", reason="pip install 'glomedge[dicom]'")
    from helpers.dicom_slides import write_dicom

    return write_dicom(folder)


def features(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_bytes())["features"]
    return found


def test_qupath_takes_every_file_and_finds_each_answer_on_its_outline(options: Options) -> None:
    outcome = infer_folder(options)
    folder = options.output / "annotations"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(
        ["apply_to_annotations.groovy", *(f"{stem}{end}" for stem in STEMS for end in (".geojson", ".json"))]
    )
    rows = table(options.output)
    for number, stem in enumerate(STEMS):
        path = folder / f"{stem}.geojson"
        assert qupath_problems(path.read_bytes()) == []
        drawn = features((options.folder / stem).with_suffix(".geojson"))
        assert drawn.pop()["properties"]["classification"]["name"] == "tissue"
        written, of_slide = features(path), rows[7 * number : 7 * number + 7]
        for feature, before, row in zip(written, drawn, of_slide, strict=True):
            ours, theirs = (shapely.geometry.shape(each["geometry"]) for each in (feature, before))
            assert ours.equals(theirs)
            properties = feature["properties"]
            assert properties["objectType"] == "detection"
            assert properties["classification"]["name"] == row["class_name"]
            assert properties["measurements"]["Probability globally sclerotic"] == float(row["probability"])
            assert properties["metadata"]["Annotation id"] == before["id"] == row["annotation_id"]
            assert feature["id"] != before["id"]
    sha256s = outcome.record["files_sha256"]
    for name in names:
        data = (folder / name).read_bytes()
        assert sha256s[f"annotations/{name}"] == hashlib.sha256(data).hexdigest()


def test_the_archive_takes_every_file_and_its_own_ids_stay(options: Options, tmp_path: Path) -> None:
    for path in options.folder.glob("*.geojson"):
        path.unlink()
    elements = [
        polyline(n, points=[[x, 20, 0], [x + 90, 20, 0], [x + 90, 99, 0]], group="Glomerulus")
        for n, x in enumerate((10, 300, 500))
    ]
    (options.folder / f"{STEMS[0]}.json").write_bytes(encoded(dsa(*elements)))
    slide = options.folder / SLIDES[0]
    infer_folder(replace(options, folder=slide))
    written = json.loads((options.output / "annotations" / f"{STEMS[0]}.json").read_bytes())
    assert dsa_problems(written) == []
    assert [element["id"] for element in written["elements"]] == [element["id"] for element in elements]
    assert [element["points"] for element in written["elements"]] == [element["points"] for element in elements]
    rows = table(options.output)
    assert [element["group"] for element in written["elements"]] == [row["class_name"] for row in rows]
    assert qupath_problems((options.output / "annotations" / f"{STEMS[0]}.geojson").read_bytes()) == []


def test_dicom_slides_get_a_report_and_annotations(options: Options) -> None:
    slide = dicom_slide(options.folder / "dicom")
    import pydicom

    outline(slide, *squares(5))
    run = replace(options, formats=("dicom-sr", "dicom-ann", "geojson"))
    outcome = infer_folder(run)
    assert outcome.exit_code == 0
    rows = [row for row in table(options.output) if row["slide"] == "level0"]
    folder = options.output / "annotations" / "dicom"
    assert sorted(path.name for path in folder.iterdir()) == ["level0.ann.dcm", "level0.geojson", "level0.sr.dcm"]
    annotations = pydicom.dcmread(folder / "level0.ann.dcm")
    counted = {
        str(group.AnnotationGroupLabel): int(group.NumberOfAnnotations) for group in annotations.AnnotationGroupSequence
    }
    assert sum(counted.values()) == 5
    assert counted.get("globally sclerotic", 0) == sum(row["label"] == "1" for row in rows)
    image = pydicom.dcmread(slide, stop_before_pixels=True)
    assert annotations.ReferencedImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    report = pydicom.dcmread(folder / "level0.sr.dcm")
    assert report.Modality == "SR"
    (note,) = [note for note in outcome.notes if note.startswith("No answers in DICOM for")]
    assert SLIDES[0] in note
    assert "level0" not in note
    assert not list((options.output / "annotations").glob("*.dcm"))
    # Where no slide is DICOM, before anything is classified.
    with pytest.raises(UsageError, match="no DICOM slide"):
        infer_folder(replace(run, folder=options.folder / SLIDES[0], output=options.output / "none"))
    assert not (options.output / "none" / "predictions.csv").exists()


def test_answers_in_dicom_are_the_same_bytes_after_a_kill_and_resume(options: Options) -> None:
    slide = dicom_slide(options.folder.parent / "dicom")
    import pydicom

    outline(slide, *squares(5))
    run = replace(options, folder=slide, formats=("dicom-sr", "dicom-ann"))
    assert run_in_child(run, KillAt(6, 1.0)) == -signal.SIGKILL
    assert read_journal(run.output / ".glomedge" / "journal").identity is not None, "killed after it had begun"
    begun = datetime.fromisoformat((run.output / ".glomedge" / "started").read_text("ascii"))

    def written(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "annotations").iterdir()}

    infer_folder(replace(run, resume=True))
    first = written(run.output)
    assert sorted(first) == ["level0.ann.dcm", "level0.sr.dcm"]
    assert infer_folder(replace(run, resume=True)).predicted == 0
    assert written(run.output) == first
    # Another run says when it began, and so is another instance.
    infer_folder(replace(run, output=run.output / "again"))
    for name, data in written(run.output / "again").items():
        one, other = (pydicom.dcmread(io.BytesIO(each)) for each in (first[name], data))
        assert str(one.ContentTime) == begun.strftime("%H%M%S.%f")
        assert one.ContentTime != other.ContentTime
        assert one.SOPInstanceUID != other.SOPInstanceUID
    infer_folder(replace(run, overwrite=True))
    assert written(run.output).keys() == first.keys()
    assert all(written(run.output)[name] != data for name, data in first.items())


def test_a_report_that_cannot_be_is_a_note_and_everything_else_is_written(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = dicom_slide(options.folder / "dicom")
    outline(slide, *squares(5))
    monkeypatch.setattr(dicom_sr, "MAX_REGIONS", 4)
    outcome = infer_folder(replace(options, folder=slide, formats=("dicom-sr", "dicom-ann")))
    (note,) = [note for note in outcome.notes if "was not written" in note]
    assert note.startswith("annotations/level0.sr.dcm was not written: ")
    assert [path.name for path in (options.output / "annotations").iterdir()] == ["level0.ann.dcm"]
    assert outcome.exit_code == 0


def test_where_qupath_counts_from_another_corner_answers_land_on_the_same_place(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write(options.folder / "S-9.svs")
    drawn = [square(1, 30.5, 40.25, 80), square(2, 200, 100, 90)]
    outline(slide, *drawn)
    infer_folder(replace(options, folder=slide))
    plain = table(options.output)
    read_info = reader.Slide._read_info

    def with_bounds(self: reader.Slide, handle: Any, mpp: float | None) -> SlideInfo:
        return replace(read_info(self, handle, mpp), bounds=Box(120, 80, 500, 400))

    monkeypatch.setattr(reader.Slide, "_read_info", with_bounds)
    infer_folder(replace(options, folder=slide))
    moved = table(options.output)
    assert [(int(row["x"]), int(row["y"])) for row in moved] == [
        (int(row["x"]) + 120, int(row["y"]) + 80) for row in plain
    ]
    assert moved[0]["probability"] != plain[0]["probability"]
    written = features(options.output / "annotations" / "S-9.geojson")
    for feature, before in zip(written, drawn, strict=True):
        assert shapely.geometry.shape(feature["geometry"]).equals(shapely.geometry.shape(before["geometry"]))
    elements = json.loads((options.output / "annotations" / "S-9.json").read_bytes())["elements"]
    assert elements[0]["points"][0] == [150.5, 120.25, 0], "the archive counts from the slide's corner"


def test_outlines_without_an_answer_are_shown_as_such(options: Options) -> None:
    slide = options.folder / SLIDES[0]
    bow_tie = square(3, 300, 300)
    bow_tie["geometry"]["coordinates"] = [[[300, 300], [390, 390], [390, 300], [300, 390], [300, 300]]]
    point = square(4, 1, 1)
    point["geometry"] = {"type": "Point", "coordinates": [5, 5]}
    outline(slide, square(1, 37, 91, 79), square(2, 2000, 20), bow_tie, point)
    infer_folder(replace(options, folder=slide))
    rows = table(options.output)
    plain = [row["status"].replace("flagged:blank", "ok").replace("+blank", "") for row in rows]
    assert plain == ["ok", "error:outside", "flagged:repaired", "error:no_area"]
    path = options.output / "annotations" / f"{STEMS[0]}.geojson"
    assert qupath_problems(path.read_bytes()) == []
    written = features(path)
    assert [feature["properties"]["metadata"]["Status"] for feature in written] == [row["status"] for row in rows[:3]]
    assert written[1]["properties"]["classification"]["name"] == "not classified"
    assert "Probability globally sclerotic" not in written[1]["properties"]["measurements"]


def test_files_of_an_earlier_run_go_and_a_users_own_stay(options: Options) -> None:
    infer_folder(options)
    folder = options.output / "annotations"
    (folder / "mine.geojson").write_text("{}")
    infer_folder(replace(options, formats=("dsa",)))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{stem}.json" for stem in STEMS), "mine.geojson"]
    )
    infer_folder(replace(options, formats=("csv",)))
    assert [path.name for path in folder.iterdir()] == ["mine.geojson"]
    foreign = replace(options, output=options.output / "other")
    (foreign.output / "annotations").mkdir(parents=True)
    (foreign.output / "annotations" / f"{STEMS[1]}.json").write_text("{}")
    with pytest.raises(OutputError, match=rf"{STEMS[1]}\.json, and no journal that says that glomedge wrote"):
        infer_folder(foreign)


def test_slides_of_one_name_in_two_formats_and_folders(options: Options) -> None:
    for name in ("S-1.svs", "S-1.tif", "deep/S-1.svs"):
        (options.folder / name).parent.mkdir(exist_ok=True)
        slide = write(options.folder / name)
        outline(slide, square(1, 10, 10)).rename(slide.with_name(f"{slide.name}.geojson"))
    (options.folder / "S-1.svs.geojson").write_bytes((options.folder / "S-1.tif.geojson").read_bytes())
    infer_folder(replace(options, formats=("dsa",)))
    written = {
        path.relative_to(options.output / "annotations").as_posix()
        for path in (options.output / "annotations").rglob("*.json")
    }
    assert written == {*(f"{stem}.json" for stem in STEMS), "S-1.svs.json", "S-1.tif.json", "deep/S-1.json"}


def test_outlines_that_changed_during_the_run_are_not_written_back_and_cost_nothing_else(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = options.folder / f"{STEMS[2]}.geojson"
    before = marks.read_bytes()
    write_files = AnswerFiles.write

    def after_a_change(self: AnswerFiles, staged: Staged) -> list[str]:
        outline(marks, *squares(7)[::-1])
        return write_files(self, staged)

    monkeypatch.setattr(AnswerFiles, "write", after_a_change)
    outcome = infer_folder(options)
    (note,) = [note for note in outcome.notes if "not written" in note]
    assert note.startswith("2 files for viewers were not written, because the file of outlines has changed since")
    assert f": {SLIDES[2]}. " in note
    assert note in json.loads((options.output / "run.json").read_bytes())["notes"]
    assert len(table(options.output)) == 21
    expected = {"apply_to_annotations.groovy", *(f"{stem}{end}" for stem in STEMS for end in (".geojson", ".json"))}
    written = {path.name for path in (options.output / "annotations").iterdir()}
    assert expected - written == {f"{STEMS[2]}.geojson", f"{STEMS[2]}.json"}
    monkeypatch.undo()
    marks.write_bytes(before)
    assert infer_folder(replace(options, resume=True)).predicted == 0
    assert {path.name for path in (options.output / "annotations").iterdir()} == expected


def test_many_outlines_take_little_memory(options: Options) -> None:
    """A tenth of 100,000 outlines in a tenth of 200 MB, from finding them to writing them back."""
    options.output.mkdir()
    few, many = peak_bytes(replace(options, folder=options.folder / SLIDES[0]), [200, 10_000])
    assert 1 << 20 < many - few < 20 << 20, "so little that it was not measured, or too much"
    assert len(features(options.output / "annotations" / f"{STEMS[0]}.geojson")) == 10_000
