"""DICOM slides that OpenSlide refuses, read by wsidicom."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import ImageCms
from typer.testing import CliRunner

from glomedge.cli import build
from glomedge.engine.options import EngineOptions
from glomedge.errors import ImageError
from glomedge.runs.folder import Options, infer_folder
from glomedge.slides.companions import Companions
from glomedge.slides.reader import Box, Slide
from helpers.dicom_slides import MPP, concatenate, write_dicom
from helpers.drawn_slides import picture
from helpers.run_kit import table
from helpers.slide_runs import outline, squares

pytest.importorskip("wsidicom", reason="pip install 'glomedge[wsidicom]'")
WHOLE = Box(0, 0, 900, 700)


def make_implicit(path: Path) -> Path:
    """Rewrite every file of a slide with implicit VR, which OpenSlide does not read."""
    for each in path.parent.iterdir():
        dataset = pydicom.dcmread(each)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        dataset.save_as(each, enforce_file_format=True, implicit_vr=True)
    return path


def make_jpeg_ls(path: Path) -> Path:
    """Pack every file of a slide as lossless JPEG-LS."""
    pytest.importorskip("jpeg_ls", reason="pyjpegls has no wheel here")
    for each in path.parent.iterdir():
        dataset = pydicom.dcmread(each)
        dataset.compress(pydicom.uid.JPEGLSLossless)
        dataset.save_as(each, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_implicit(write_dicom(tmp_path_factory.mktemp("slides") / "S-1"))


def copied(slide_path: Path, folder: Path) -> Path:
    shutil.copytree(slide_path.parent, folder)
    return folder / slide_path.name


@pytest.mark.parametrize("name", ["level0.dcm", "level1.dcm"])
def test_what_openslide_would_have_read_whichever_file_is_given(name: str, slide_path: Path, tmp_path: Path) -> None:
    with Slide(write_dicom(tmp_path / "explicit")) as explicit, Slide(slide_path.with_name(name)) as slide:
        expected, info = explicit.info, slide.info
        assert expected.reader.startswith("OpenSlide ")
        assert info.reader.startswith("wsidicom ")
        assert (info.width_px, info.height_px, info.mpp, info.vendor, info.levels) == (
            expected.width_px, expected.height_px, expected.mpp, expected.vendor, expected.levels,
        )  # fmt: skip
        assert (info.bounds, info.background_rgb) == (expected.bounds, expected.background_rgb)
        for box in (WHOLE, Box(10, 20, 300, 280), Box(255, 255, 2, 2), Box(700, 500, 400, 400), Box(-5, -5, 40, 40)):
            theirs, ours = explicit.read(box), slide.read(box)
            np.testing.assert_array_equal(ours.pixels_hwc, theirs.pixels_hwc)
            assert (ours.box, ours.at_edge) == (theirs.box, theirs.at_edge)
        for part in (WHOLE, Box(100, 60, 300, 200), Box(600, 500, 500, 500)):
            np.testing.assert_array_equal(slide.read_level(1, part), explicit.read_level(1, part))
        np.testing.assert_array_equal(slide.read(WHOLE).pixels_hwc, picture(700, 900))


def test_lossless_jpeg_ls(tmp_path: Path) -> None:
    with Slide(make_jpeg_ls(write_dicom(tmp_path / "S-1"))) as slide:
        assert slide.info.reader.startswith("wsidicom ")
        np.testing.assert_array_equal(slide.read(WHOLE).pixels_hwc, picture(700, 900))


def test_a_level_in_two_files_and_one_of_them_missing(tmp_path: Path) -> None:
    first = make_implicit(concatenate(write_dicom(tmp_path / "S-1")))
    with Slide(first) as slide:
        np.testing.assert_array_equal(slide.read(WHOLE).pixels_hwc, picture(700, 900))
    first.with_name("level0-2.dcm").unlink()
    with pytest.raises(ImageError, match="wsidicom refuses it as well") as refusal:
        Slide(first)
    assert refusal.value.code == "corrupt"


def test_several_threads_on_one_slide_get_the_same_pixels(slide_path: Path) -> None:
    whole, boxes = picture(700, 900), [Box(x, y, 200, 150) for x in range(0, 700, 37) for y in range(0, 540, 83)]
    with Slide(slide_path) as slide, ThreadPoolExecutor(4) as threads:
        for box, region in zip(boxes, threads.map(slide.read, boxes), strict=True):
            cut = whole[box.y : box.y + box.height, box.x : box.x + box.width]
            np.testing.assert_array_equal(region.pixels_hwc, cut)


def test_the_colour_profile_is_recorded(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = write_dicom(tmp_path / "S-1")
    for each in path.parent.iterdir():
        dataset = pydicom.dcmread(each)
        dataset.OpticalPathSequence[0].ICCProfile = profile
        dataset.save_as(each, enforce_file_format=True)
    with Slide(path) as explicit:
        expected = explicit.info.icc_sha256
    assert expected is not None
    with Slide(make_implicit(path)) as slide:
        assert slide.info.icc_sha256 == expected


@pytest.mark.parametrize("lost_bytes", [1, 5000, 1_500_000])
def test_the_beginning_of_a_file_is_refused_as_a_whole(lost_bytes: int, slide_path: Path, tmp_path: Path) -> None:
    path = copied(slide_path, tmp_path / "S-1")
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    with pytest.raises(ImageError, match="wsidicom refuses it as well") as refusal:
        Slide(path)
    assert refusal.value.code == "corrupt"


def test_a_lower_level_is_never_taken_for_a_damaged_sharpest_one(slide_path: Path, tmp_path: Path) -> None:
    path = copied(slide_path, tmp_path / "S-1")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"level0\.dcm beside it is damaged"):
        Slide(path.with_name("level1.dcm"))


def test_a_damaged_tile_fails_alone(tmp_path: Path) -> None:
    path = make_jpeg_ls(write_dicom(tmp_path / "S-1"))
    data, marker = bytearray(path.read_bytes()), b"\xff\xd8\xff"
    first_tile = data.index(marker)
    data[first_tile : first_tile + 200] = bytes(200)
    path.write_bytes(data)
    with Slide(path) as slide:
        for _ in range(2):
            with pytest.raises(ImageError, match="damaged at x 10, y 10") as refusal:
                slide.read(Box(10, 10, 50, 50))
            assert refusal.value.code == "corrupt"
            np.testing.assert_array_equal(
                slide.read(Box(300, 300, 90, 80)).pixels_hwc, picture(700, 900)[300:380, 300:390]
            )


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no resolution", "does not say how many microns"),
        ("several optical paths", "has several focal planes or optical paths"),
        ("grey", "is no colour picture of 8 bits"),
    ],
)
def test_what_would_be_guessed_is_refused(what: str, reason: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "S-1", mpp=None if what == "no resolution" else MPP)
    for each in path.parent.iterdir():
        dataset = pydicom.dcmread(each)
        if what == "several optical paths":
            second = pydicom.Dataset()
            second.update(dataset.OpticalPathSequence[0])
            second.OpticalPathIdentifier = "2"
            dataset.OpticalPathSequence.append(second)
            dataset.NumberOfOpticalPaths, dataset.NumberOfFrames = 2, 2 * dataset.NumberOfFrames
            dataset.PixelData *= 2
        elif what == "grey":
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.PixelData = dataset.PixelData[::3]
        dataset.save_as(each, enforce_file_format=True)
    with pytest.raises(ImageError, match=f"wsidicom refuses it as well: it {reason}"):
        Slide(make_implicit(path))


def test_files_of_a_slide_with_implicit_vr_are_known(slide_path: Path) -> None:
    assert Companions().of(slide_path, "dicom") == [slide_path.with_name("level1.dcm")]


def test_a_run_says_which_library_read_a_slide(tiny_model: Path, slide_path: Path, tmp_path: Path) -> None:
    """The answers are those of the slide that OpenSlide reads; a damaged slide is a row."""
    (tmp_path / "slides").mkdir()
    for number, path in enumerate((write_dicom(tmp_path / "explicit"), slide_path, slide_path)):
        folder = tmp_path / "slides" / f"S-{number}"
        slide = copied(path, folder).rename(folder / f"S-{number}.dcm")
        outline(slide, *squares(5))
    slide.write_bytes(slide.read_bytes()[:-5000])
    options = Options(tmp_path / "slides", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"), report=False)
    outcome = infer_folder(options)
    assert outcome.exit_code == 2
    told = ("annotation_id", "x", "y", "width", "height", "mpp", "probability", "status", "sha256")
    rows = [[row[name] for name in told] for row in table(options.output)]
    assert rows[:5] == rows[5:10]
    assert not any(row[-2].startswith("error") for row in rows[:10])
    assert [row[-2] for row in rows[10:]] == ["error:corrupt"]
    record = json.loads((options.output / "run.json").read_text())
    readers = [slide.get("reader", "none").split()[0] for slide in record["slides"]]
    assert readers == ["OpenSlide", "wsidicom", "none"]
    assert any("OpenSlide refuses these slides" in note and "S-1.dcm (wsidicom " in note for note in record["notes"])


def test_crop_says_which_library_read_a_slide(slide_path: Path, tmp_path: Path) -> None:
    path = copied(slide_path, tmp_path / "S-1")
    path.with_name("level0.csv").write_text("id,x,y,width,height\nG1,10,20,60,70\n")
    done = CliRunner().invoke(build(["crop"]), ["crop", str(path.parent), "-o", str(tmp_path / "crops")])
    assert done.exit_code == 0, done.output
    assert "read by wsidicom" in done.output
