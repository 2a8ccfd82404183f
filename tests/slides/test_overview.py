"""The slide as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glomedge.errors import ImageError
from glomedge.slides.overview import overview
from glomedge.slides.reader import Box, Slide
from helpers.dicom_slides import write_dicom
from helpers.drawn_slides import damage_tile, picture, write


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("slides") / "S-1.svs")


@pytest.mark.parametrize(("longer_side_px", "shape"), [(1600, (700, 900)), (450, (350, 450)), (300, (233, 300))])
def test_the_whole_slide(longer_side_px: int, shape: tuple[int, int], slide_path: Path) -> None:
    with Slide(slide_path) as slide:
        found = overview(slide, longer_side_px)
    assert found.part == Box(0, 0, 900, 700)
    assert found.pixels_hwc.shape == (*shape, 3)
    drawn = picture(700, 900)
    for y, x in ((0.1, 0.1), (0.5, 0.25), (0.9, 0.8)):
        seen = found.pixels_hwc[int(y * shape[0]), int(x * shape[1])].astype(int)
        assert np.abs(seen - drawn[int(y * 700), int(x * 900)]).max() < 12


def test_the_smallest_level_that_suffices_is_read(tmp_path: Path) -> None:
    """The sharpest level is damaged, and nobody looks at it."""
    path = write(tmp_path / "S-1.svs")
    damage_tile(path, 8)
    with Slide(path) as slide:
        with pytest.raises(ImageError, match="damaged"):
            overview(slide)
        assert overview(slide, 450).pixels_hwc.shape == (350, 450, 3)
        assert overview(slide, 200).pixels_hwc.shape == (156, 200, 3)


def test_only_the_scanned_part_is_shown(tmp_path: Path) -> None:
    with Slide(write_dicom(tmp_path / "S-1")) as slide:
        slide.info = replace(slide.info, bounds=Box(100, 200, 400, 600))
        found = overview(slide)
    assert found.part == Box(100, 200, 400, 500)
    np.testing.assert_array_equal(found.pixels_hwc, picture(700, 900)[200:700, 100:500])


def test_a_slide_without_a_small_level_has_no_overview(slide_path: Path) -> None:
    with Slide(slide_path) as slide:
        slide.info = replace(slide.info, width_px=100_000, height_px=90_000, levels=((100_000, 90_000),))
        with pytest.raises(ImageError) as refusal:
            overview(slide)
    assert refusal.value.code == "too_large"
