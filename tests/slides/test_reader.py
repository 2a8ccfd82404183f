"""One slide: its measures, its pixels, and what can be wrong with it."""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image, ImageCms

from glomedge.errors import ImageError, MissingExtraError
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.reader import Box, Slide, _on_background
from helpers.drawn_slides import add_colour_profile, damage_tile, picture, write

INSIDE = Box(100, 50, 300, 280)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("slides") / "S-1.svs")


def code_of(path: Path, mpp: float | None = None) -> str:
    with pytest.raises(ImageError) as refusal:
        Slide(path, mpp)
    assert len(str(refusal.value)) < 500
    return refusal.value.code


def test_what_a_slide_says_about_itself(slide_path: Path) -> None:
    with Slide(slide_path) as slide:
        info = slide.info
    assert (info.width_px, info.height_px, info.mpp, info.mpp_given, info.vendor) == (900, 700, 0.25, False, "aperio")
    assert info.levels == ((900, 700), (450, 350), (225, 175))
    assert (info.bounds, info.background_rgb, info.icc_sha256) == (None, (255, 255, 255), None)


def test_the_pixels_are_those_of_read_region_at_level_0(slide_path: Path) -> None:
    with openslide.OpenSlide(str(slide_path)) as plain:
        expected = np.asarray(plain.read_region((INSIDE.x, INSIDE.y), 0, (INSIDE.width, INSIDE.height)))[..., :3]
    with Slide(slide_path) as slide:
        region = slide.read(INSIDE)
    np.testing.assert_array_equal(region.pixels_hwc, expected)
    assert region.pixels_hwc.flags.c_contiguous
    assert (region.box, region.at_edge) == (INSIDE, False)
    drawn = picture(700, 900)[INSIDE.y : INSIDE.y + INSIDE.height, INSIDE.x : INSIDE.x + INSIDE.width]
    assert np.abs(expected.astype(int) - drawn).mean() < 3, "what was drawn there"


def test_a_colour_profile_is_recorded_and_a_damaged_one_is_not(slide_path: Path, tmp_path: Path) -> None:
    good = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Slide(slide_path) as slide:
        expected = slide.read(INSIDE).pixels_hwc
    for name, profile, sha256 in (
        ("good", good, hashlib.sha256(good).hexdigest()),
        ("damaged", b"\0" * 200, None),
        ("cut", good[:150], None),
    ):
        path = write(tmp_path / f"{name}.svs")
        add_colour_profile(path, profile)
        with Slide(path) as slide:
            assert slide.info.icc_sha256 == sha256
            np.testing.assert_array_equal(slide.read(INSIDE).pixels_hwc, expected)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        (Box(-20, -30, 100, 100), Box(0, 0, 80, 70)),
        (Box(850, 650, 100, 100), Box(850, 650, 50, 50)),
        (Box(-5, -5, 2000, 2000), Box(0, 0, 900, 700)),
    ],
)
def test_a_box_over_the_edge_is_clipped_and_holds_no_black(box: Box, clipped: Box, slide_path: Path) -> None:
    with Slide(slide_path) as slide:
        region = slide.read(box)
        np.testing.assert_array_equal(region.pixels_hwc, slide.read(clipped).pixels_hwc)
    assert (region.box, region.at_edge) == (clipped, True)
    assert region.pixels_hwc.shape == (clipped.height, clipped.width, 3)
    assert region.pixels_hwc.max(axis=2).min() > 0


@pytest.mark.parametrize(
    ("box", "code"),
    [
        (Box(900, 0, 50, 50), "outside"),
        (Box(-50, 0, 50, 50), "outside"),
        (Box(0, 10_000, 50, 50), "outside"),
        (Box(899, 0, 50, 50), "too_small"),
    ],
)
def test_boxes_that_are_not_on_the_slide(box: Box, code: str, slide_path: Path) -> None:
    with Slide(slide_path) as slide, pytest.raises(ImageError) as refusal:
        slide.read(box)
    assert refusal.value.code == code


def test_a_box_of_half_a_slide_is_no_glomerulus(slide_path: Path) -> None:
    with Slide(slide_path) as slide:
        slide.info = replace(slide.info, width_px=100_000, height_px=100_000)
        with pytest.raises(ImageError) as refusal:
            slide.clip(Box(0, 0, 9000, 9000))
    assert refusal.value.code == "too_large"


def test_what_was_not_scanned_gets_the_background() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (9, 7, 4), np.uint8)
    mixed = _on_background(rgba, (250, 240, 230))
    for y, x in np.ndindex(9, 7):
        alpha = int(rgba[y, x, 3]) / 255
        expected = [float(v) * alpha + b * (1 - alpha) for v, b in zip(rgba[y, x, :3], (250, 240, 230), strict=True)]
        np.testing.assert_allclose(mixed[y, x], expected, atol=0.51)
    rgba[..., 3] = 255
    np.testing.assert_array_equal(_on_background(rgba, (250, 240, 230)), rgba[..., :3])
    rgba[..., 3] = 0
    assert (_on_background(rgba, (250, 240, 230)) == (250, 240, 230)).all()


def test_the_resolution_is_what_the_slide_or_the_user_says(tmp_path: Path) -> None:
    assert Slide(write(tmp_path / "a.svs", mpp_text="0.2345")).info.mpp == 0.2345
    assert Slide(write(tmp_path / "b.tif", aperio=False, tags_mpp=0.5)).info.mpp == pytest.approx(0.5)
    given = Slide(tmp_path / "a.svs", 0.5).info
    assert (given.mpp, given.mpp_given) == (0.5, True)


@pytest.mark.parametrize("text", [None, "0.01", "352.8", "0", "-1", "nan"])
def test_a_missing_or_absurd_resolution_is_refused_and_never_guessed(text: str | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.svs", mpp_text=text)
    assert code_of(path) == "mpp"
    with pytest.raises(ImageError, match=r"--mpp 0\.25"):
        Slide(path)
    assert Slide(path, 0.25).info.mpp == 0.25


@pytest.mark.parametrize("mpp", [0.01, 3.0, float("nan"), -0.25])
def test_an_absurd_mpp_of_the_user_is_refused_too(mpp: float, slide_path: Path) -> None:
    assert code_of(slide_path, mpp) == "mpp"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_part_of_a_slide_is_refused(share: float, slide_path: Path, tmp_path: Path) -> None:
    whole = slide_path.read_bytes()
    part = tmp_path / "part.svs"
    part.write_bytes(whole[: int(len(whole) * share)])
    assert code_of(part) == "format"


def test_files_that_are_no_slides(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing.svs") == "vanished"
    (tmp_path / "text.svs").write_text("hello")
    assert code_of(tmp_path / "text.svs") == "format"
    Image.new("RGB", (50, 50)).save(tmp_path / "crop.png")
    assert code_of(tmp_path / "crop.png") == "format"
    assert code_of(tmp_path) == "format"
    assert code_of(tmp_path / ("a" * 300)) == "io", "a name that no disk has"
    (tmp_path / "alone.mrxs").write_bytes(b"")
    assert code_of(tmp_path / "alone.mrxs") in ("format", "corrupt")


def test_a_damaged_tile_fails_its_own_boxes_and_no_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.svs")
    with Slide(path) as slide:
        expected = slide.read(Box(600, 400, 200, 200)).pixels_hwc
    damage_tile(path, 8)  # the tile at the upper left corner comes first in the file
    with Slide(path) as slide:
        for _ in range(3):
            with pytest.raises(ImageError, match="damaged at x 10, y 20") as refusal:
                slide.read(Box(10, 20, 60, 60))
            assert refusal.value.code == "corrupt"
            np.testing.assert_array_equal(slide.read(Box(600, 400, 200, 200)).pixels_hwc, expected)


def test_threads_get_the_same_pixels_beside_a_damaged_tile(tmp_path: Path) -> None:
    path = write(tmp_path / "a.svs")
    boxes = [Box(256 + 7 * n, 256 + 5 * n, 90, 80) for n in range(40)]
    with Slide(path) as slide:
        expected = [slide.read(box).pixels_hwc for box in boxes]
    damage_tile(path, 8)

    def read(slide: Slide, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | str:
        try:
            return slide.read(boxes[number // 2] if number % 2 else Box(0, 0, 50, 50)).pixels_hwc
        except ImageError as error:
            return error.code

    with Slide(path) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: read(slide, number), range(80)))
    assert found[::2] == ["corrupt"] * 40
    for pixels, wanted in zip(found[1::2], expected, strict=True):
        np.testing.assert_array_equal(pixels, wanted)


def test_a_slide_that_vanishes_between_two_boxes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.svs")
    damage_tile(path, 8)
    with Slide(path) as slide:
        path.rename(tmp_path / "gone.svs")
        with pytest.raises(ImageError) as refusal:
            slide.read(Box(0, 0, 50, 50))
        assert refusal.value.code == "vanished"


def test_qupath_counts_from_the_scanned_part_where_both_sides_differ(slide_path: Path) -> None:
    with Slide(slide_path) as slide:
        assert slide.qupath_origin_px == (0, 0)
        slide.info = replace(slide.info, bounds=Box(120, 80, 500, 400))
        assert slide.qupath_origin_px == (120, 80)
        slide.info = replace(slide.info, bounds=Box(120, 0, 500, 700))
        assert slide.qupath_origin_px == (0, 0)


@pytest.mark.parametrize("package", ["openslide", "shapely"])
def test_without_its_package_the_extra_is_named(
    package: str, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boxes.csv").write_text("x,y,width,height\n1,2,3,4\n")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"slides\]"):
        list(read_outlines(tmp_path / "boxes.csv")) if package == "shapely" else Slide(slide_path)
