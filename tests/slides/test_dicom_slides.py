"""DICOM slides: read like any other, and known again by results that are written as DICOM."""

from __future__ import annotations

import csv
import errno
import os
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from glomedge.cli import build
from glomedge.engine.options import EngineOptions
from glomedge.errors import ImageError, MissingExtraError, UsageError
from glomedge.runs.folder import Options, infer_folder
from glomedge.slides.dicom_source import dicom_source
from glomedge.slides.reader import Box, Slide
from helpers.dicom_slides import MPP, concatenate, pack_as_jpeg_2000, write_dicom, write_dicom_of
from helpers.drawn_slides import picture, write
from helpers.run_kit import table
from helpers.slide_runs import outline, squares


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dicom(tmp_path_factory.mktemp("slides") / "S-1")


@pytest.mark.parametrize("name", ["level0.dcm", "level1.dcm"])
def test_the_pixels_are_those_that_were_put_in_whichever_file_is_given(name: str, slide_path: Path) -> None:
    with Slide(slide_path.with_name(name)) as slide:
        info = slide.info
        whole = slide.read(Box(0, 0, 900, 700)).pixels_hwc
    assert (info.width_px, info.height_px, info.mpp, info.vendor) == (900, 700, MPP, "dicom")
    assert info.levels == ((900, 700), (450, 350))
    np.testing.assert_array_equal(whole, picture(700, 900))


@pytest.mark.parametrize("colour_transform", [0, 1])
def test_lossless_jpeg_2000(colour_transform: int, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "S-1")
    for each in sorted(path.parent.iterdir()):
        pack_as_jpeg_2000(each, colour_transform)
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.read(Box(0, 0, 900, 700)).pixels_hwc, picture(700, 900))


def test_a_level_in_two_files(tmp_path: Path) -> None:
    first = concatenate(write_dicom(tmp_path / "S-1"))
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == ["level0-1.dcm", "level0-2.dcm", "level1.dcm"]
    for name in names:
        with Slide(first.with_name(name)) as slide:
            np.testing.assert_array_equal(slide.read(Box(0, 0, 900, 700)).pixels_hwc, picture(700, 900))


def test_what_openslide_does_not_read_is_refused_and_the_extra_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    path = write_dicom(tmp_path / "S-1")
    for each in path.parent.iterdir():
        dataset = pydicom.dcmread(each)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        dataset.save_as(each, enforce_file_format=True, implicit_vr=True)
    with pytest.raises(ImageError, match=r"(no slide that OpenSlide reads|is damaged).*wsidicom\]") as refusal:
        Slide(path)
    assert refusal.value.code in ("format", "corrupt")


@pytest.mark.parametrize("converted", ["its JPEG tiles", "its pixels"])
def test_a_dicom_slide_has_the_pixels_of_its_twin(converted: str, tmp_path: Path) -> None:
    """A scanner's file and its conversion to DICOM answer alike where the conversion loses nothing."""
    scanned = write(tmp_path / "twin.svs")
    with Slide(scanned) as twin:
        if converted == "its JPEG tiles":
            path = write_dicom_of(scanned, tmp_path / "converted")
        else:
            path = write_dicom(tmp_path / "converted", twin.read(Box(0, 0, 900, 700)).pixels_hwc)
        with Slide(path) as slide:
            assert slide.info.vendor == "dicom"
            for box in (Box(0, 0, 900, 700), Box(10, 20, 300, 280), Box(700, 500, 400, 400)):
                np.testing.assert_array_equal(slide.read(box).pixels_hwc, twin.read(box).pixels_hwc)


def test_a_slide_and_its_dicom_get_the_same_answers(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    scanned = write(tmp_path / "slides" / "S-1.svs")
    converted = write_dicom_of(scanned, tmp_path / "slides" / "S-2").rename(tmp_path / "slides" / "S-2" / "S-2.dcm")
    for slide in (scanned, converted):
        outline(slide, *squares(7))
    options = Options(tmp_path / "slides", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"), report=False)
    assert infer_folder(options).exit_code == 0
    told = ("annotation_id", "x", "y", "width", "height", "mpp", "probability", "status", "sha256")
    rows = [[row[name] for name in told] for row in table(options.output)]
    assert len(rows) == 14
    assert rows[:7] == rows[7:]


def test_crops_of_a_dicom_slide(slide_path: Path, tmp_path: Path) -> None:
    import cv2

    (slide_path.with_name("level0.csv")).write_text("id,x,y,width,height\nG1,10,20,60,70\nG2,880,20,60,70\n")
    done = CliRunner().invoke(build(["crop"]), ["crop", str(slide_path.parent), "-o", str(tmp_path / "crops")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "crops" / "crops.csv").open(newline="") as handle:
        first, second = csv.DictReader(handle)
    assert (first["status"], second["status"]) == ("ok", "flagged:at_edge")
    crop = cv2.cvtColor(cv2.imread(str(tmp_path / "crops" / first["name"])), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(crop, picture(700, 900)[20:90, 10:70])


def test_a_dicom_slide_without_a_resolution(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "S-2", mpp=None)
    with pytest.raises(ImageError, match="--mpp") as refusal:
        Slide(path)
    assert refusal.value.code == "mpp"
    with pytest.raises(UsageError, match=r"lacks PixelMeasuresSequence.*--format geojson"):
        dicom_source(path)


@pytest.mark.parametrize("name", ["level0.dcm", "level1.dcm"])
def test_results_refer_to_the_sharpest_instance_of_the_series(name: str, slide_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    write_dicom(folder, np.full((900, 1200, 3), 7, np.uint8), series=3)
    for path in folder.glob("*.dcm"):
        path.rename(path.with_name(f"other-{path.name}"))
    write_dicom(folder)
    (folder / "notes.txt").write_text("no DICOM")
    source = dicom_source(folder / name)
    assert source.sop_instance_uid == pydicom.dcmread(folder / "level0.dcm").SOPInstanceUID
    assert "PixelData" not in source.header


def test_results_refer_to_the_first_part_of_a_level_in_two_files(tmp_path: Path) -> None:
    first = concatenate(write_dicom(tmp_path / "S-1"))
    expected = pydicom.dcmread(first).SOPInstanceUID
    first.rename(first.with_name("z.dcm"))
    assert dicom_source(tmp_path / "S-1" / "level0-2.dcm").sop_instance_uid == expected


def test_places_on_the_glass(slide_path: Path) -> None:
    """By the equation of PS3.3, C.7.6.2.1.1, for the centre of the pixel in column 100 and row 40."""
    header = pydicom.dcmread(slide_path)
    x, y = np.array([20.5, 40.25]) + 100 * MPP / 1000 * np.array([0, -1]) + 40 * MPP / 1000 * np.array([-1, 0])
    found = dicom_source(slide_path).on_slide_mm(np.array([[100.5, 40.5]]))
    np.testing.assert_allclose(found, [[x, y, 0]], atol=1e-9)
    assert [float(each) for each in header.ImageOrientationSlide] == [0, -1, 0, -1, 0, 0]


def test_what_is_no_dicom_slide_is_refused_in_a_sentence(slide_path: Path, tmp_path: Path) -> None:
    other = pydicom.dcmread(slide_path)
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    other.save_as(tmp_path / "other.dcm")
    for path in (write(tmp_path / "a.svs"), tmp_path / "other.dcm", tmp_path / "nothing.dcm", tmp_path):
        with pytest.raises(UsageError, match=r"is no DICOM slide.*--format geojson") as refusal:
            dicom_source(path)
        assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("lacking", ["FrameOfReferenceUID", "TotalPixelMatrixOriginSequence", "ImageOrientationSlide"])
def test_a_header_without_what_results_need(lacking: str, slide_path: Path, tmp_path: Path) -> None:
    header = pydicom.dcmread(slide_path)
    del header[lacking]
    header.save_as(tmp_path / "a.dcm")
    with pytest.raises(UsageError, match=f"lacks {lacking}"):
        dicom_source(tmp_path / "a.dcm")


def test_a_folder_that_may_not_be_listed(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as an administrator, for whom nothing is denied: so the system's answer is replaced."""

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(UsageError, match=r"cannot be listed \(Permission denied\)"):
        dicom_source(slide_path)


def test_a_header_without_the_size_of_its_pixels(slide_path: Path, tmp_path: Path) -> None:
    header = pydicom.dcmread(slide_path)
    del header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    header.save_as(tmp_path / "a.dcm")
    with pytest.raises(UsageError, match=r"a\.dcm is not as the standard wants it .*PixelSpacing"):
        dicom_source(tmp_path / "a.dcm")


def test_attributes_that_may_be_empty_may_be_missing(slide_path: Path, tmp_path: Path) -> None:
    header = pydicom.dcmread(slide_path)
    for name in ("PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"):
        del header[name]
    header.save_as(tmp_path / "a.dcm")
    assert dicom_source(tmp_path / "a.dcm").header.AccessionNumber == ""


def test_without_highdicom_the_extra_is_named(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"dicom\]"):
        dicom_source(slide_path)
