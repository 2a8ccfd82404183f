"""Flags: each is raised by what it names, by nothing that a good crop undergoes, and at any size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.imaging import images, quality
from helpers import image_files

Pixels = npt.NDArray[np.uint8]
FOLDERS = ("globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli")


def tissue(height_px: int = 400, width_px: int = 500, seed: int = 3) -> Pixels:
    """A crop with PAS colours and detail at every scale: nuclei, loops and noise on pink."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height_px, width_px, 3), (205, 130, 180), np.uint8)
    for _ in range(height_px * width_px // 900):
        x, y = int(rng.integers(width_px)), int(rng.integers(height_px))
        colour = ((110, 60, 130), (235, 215, 230), (170, 60, 130))[int(rng.integers(3))]
        cv2.circle(canvas, (x, y), int(rng.integers(4, 14)), colour, -1)
    return np.clip(canvas + rng.normal(0, 6, canvas.shape), 0, 255).astype(np.uint8)


def test_good_crop_has_no_flag() -> None:
    assert quality.assess(tissue()) == ()


def test_lab_of_known_colours() -> None:
    """CIE L*a*b* of the sRGB primaries as tabulated (white D65, observer 2 degrees)."""
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    known = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (87.74, -86.18, 83.18), (32.30, 79.19, -107.86)]
    np.testing.assert_allclose(quality._lab(colours), known, atol=0.05)


@pytest.mark.parametrize("colour", [(245, 243, 246), (212, 210, 214), (0, 0, 0), (238, 222, 232), (255, 255, 255)])
@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_blank(colour: tuple[int, int, int], noise: float) -> None:
    field = np.full((300, 260, 3), colour, np.float64)
    field = np.clip(field + np.random.default_rng(0).normal(0, noise, field.shape), 0, 255)
    assert quality.assess(field.astype(np.uint8)) == ("blank",)


def test_transparent_everywhere_is_blank() -> None:
    rgba = np.dstack([tissue(100, 100), np.zeros((100, 100), np.uint8)])
    decoded = images.decode(image_files.png(rgba, colour_type=6))
    assert decoded.flags == ("transparency",)
    assert quality.assess(decoded.pixels_hwc) == ("blank",)


def test_twelve_bits_nobody_declared_do_not_pass_unnoticed() -> None:
    """Without sBIT a 12-bit picture in a 16-bit PNG decodes nearly black: the flags are what is left to say so."""
    dark = tissue(100, 100).astype(np.uint16) * 16
    decoded = images.decode(image_files.png(dark, depth=16))
    assert decoded.flags == ("sixteen_bit",)
    assert {"blank", "stain"} & set(quality.assess(decoded.pixels_hwc))


@pytest.mark.parametrize("sigma_of_224", [3.0, 4.0])
@pytest.mark.parametrize("side_px", [224, 577, 1100])
def test_blurred_at_any_resolution(sigma_of_224: float, side_px: int) -> None:
    sharp = cv2.resize(tissue(448, 448), (side_px, side_px), interpolation=cv2.INTER_AREA)
    assert "blurred" not in quality.assess(sharp)
    assert "blurred" in quality.assess(cv2.GaussianBlur(sharp, (0, 0), sigma_of_224 * side_px / 224))


@pytest.mark.parametrize("gain", [0.4, 0.6, 1.0])
def test_focus_does_not_depend_on_contrast(gain: float) -> None:
    sharp = tissue()
    mean = sharp.mean(axis=(0, 1))
    pale = np.clip(mean + gain * (sharp - mean), 0, 255).astype(np.uint8)
    assert "blurred" not in quality.assess(pale)
    assert "blurred" in quality.assess(cv2.GaussianBlur(pale, (0, 0), 6.0))


@pytest.mark.parametrize(
    "change",
    [
        lambda rgb: cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
        lambda rgb: 255 - rgb,
        lambda rgb: rgb[..., [1, 0, 2]],
        lambda rgb: (rgb * 0.25).astype(np.uint8),
    ],
    ids=["gray", "inverted", "green", "dark"],
)
def test_stain(change: object) -> None:
    assert callable(change)
    assert "stain" in quality.assess(np.ascontiguousarray(change(tissue())))


def painted(rgb: Pixels, colour: tuple[int, int, int]) -> Pixels:
    """One colour outside an ellipse that touches all sides."""
    height_px, width_px = rgb.shape[:2]
    inside = np.zeros((height_px, width_px), np.uint8)
    cv2.ellipse(inside, (width_px // 2, height_px // 2), (width_px // 2, height_px // 2), 0, 0, 360, 1, -1)
    return np.where(inside[..., None] == 1, rgb, np.array(colour, np.uint8))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 255, 0), (128, 128, 128)])
@pytest.mark.parametrize("size", [(400, 500), (160, 120), (1300, 900)])
@pytest.mark.parametrize("as_jpeg", [False, True])
def test_masked(colour: tuple[int, int, int], size: tuple[int, int], as_jpeg: bool) -> None:
    rgb = painted(tissue(*size), colour)
    if as_jpeg:
        rgb = images.decode(image_files.saved(rgb, "JPEG", quality=85)).pixels_hwc
    assert "masked" in quality.assess(rgb)
    assert "masked" not in quality.assess(tissue(*size))


@pytest.mark.parametrize("colour", [(244, 244, 244), (243, 240, 245), (212, 210, 214), (255, 255, 255)])
def test_flat_glass_at_one_side_is_no_mask(colour: tuple[int, int, int]) -> None:
    """Glass is as flat as paint on some scanners, and white where they saturate."""
    rgb = tissue()
    rgb[:, 350:] = colour
    assert "masked" not in quality.assess(rgb)


def test_black_beyond_the_edge_of_a_slide_is_masked() -> None:
    rgb = tissue()
    rgb[330:] = 0
    assert "masked" in quality.assess(rgb)


def test_black_within_the_picture_is_no_mask() -> None:
    rgb = tissue()
    cv2.circle(rgb, (250, 200), 60, (0, 0, 0), -1)
    assert "masked" not in quality.assess(rgb)


def test_too_small_is_of_the_smaller_side() -> None:
    assert "too_small" in quality.assess(tissue(63, 200))
    assert "too_small" in quality.assess(tissue(200, 63))
    assert quality.assess(tissue(64, 64)) == ()


def test_colour_measures_against_a_reference_of_every_pixel() -> None:
    rgb = tissue(56, 56)
    flat = rgb.reshape(-1, 3).astype(np.float64) / 255.0
    # sRGB to CIE L*a*b*, D65 (IEC 61966-2-1, CIE 15).
    linear = np.where(flat <= 0.04045, flat / 12.92, ((flat + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ to_xyz.T / np.array([0.950456, 1.0, 1.088754])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    inside = (np.hypot(lab[:, 1], lab[:, 2]) > 11.0) | (lab[:, 0] < 70.0)
    lightness, a, b = lab[inside].mean(axis=0)
    found = quality.measure(rgb)
    assert found.tissue_fraction == pytest.approx(inside.mean(), abs=0.002)
    assert found.lightness == pytest.approx(lightness, abs=0.2)
    assert found.chroma == pytest.approx(np.hypot(a, b), abs=0.2)
    assert found.hue_degrees == pytest.approx(np.degrees(np.arctan2(b, a)), abs=0.5)


@settings(max_examples=200, deadline=None)
@given(height_px=st.integers(1, 900), width_px=st.integers(1, 900), value=st.integers(0, 255))
def test_any_shape(height_px: int, width_px: int, value: int) -> None:
    flags = quality.assess(np.full((height_px, width_px, 3), value, np.uint8))
    assert "blank" in flags
    assert ("too_small" in flags) == (min(height_px, width_px) < 64)
    assert list(flags) == sorted(flags)


@pytest.mark.parametrize(
    "bad",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
)
def test_refuses_what_is_no_picture(bad: Pixels) -> None:
    with pytest.raises(ValueError, match="uint8"):
        quality.assess(bad)


def test_view_and_copy_agree() -> None:
    rgb = tissue()
    assert quality.measure(rgb[::-1, ::2]) == quality.measure(rgb[::-1, ::2].copy())


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_crops_are_seldom_flagged_in_either_class(folder: str, real_data: Path) -> None:
    paths = sorted((real_data / folder).glob("*.png"))
    flagged = [path.name for path in paths if quality.assess(images.decode(images.read(path)).pixels_hwc)]
    assert len(flagged) < 0.02 * len(paths), flagged


@pytest.mark.parametrize("folder", FOLDERS)
def test_degraded_real_crops_are_flagged(folder: str, real_data: Path) -> None:
    crops = [images.decode(images.read(path)).pixels_hwc for path in sorted((real_data / folder).glob("*.png"))[::6]]
    blurred = sum("blurred" in quality.assess(cv2.GaussianBlur(rgb, (0, 0), 3.0)) for rgb in crops)
    gray = sum(
        "stain" in quality.assess(cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        for rgb in crops
    )
    assert all("masked" in quality.assess(painted(rgb, colour)) for rgb in crops for colour in ((0,) * 3, (255,) * 3))
    assert blurred >= 0.98 * len(crops)
    assert gray == len(crops)


def test_the_masked_share_is_that_of_the_parts_that_touch_the_border() -> None:
    rng = np.random.default_rng(5)
    shares = set()
    for number in range(300):
        height_px, width_px = (int(side) for side in rng.integers(1, 127, 2))
        rgb = rng.integers(100, 150, (height_px, width_px, 3), dtype=np.uint8)
        for _ in range(int(rng.integers(1, 7))):
            y, x = rng.integers(0, height_px), rng.integers(0, width_px)
            rgb[y : y + rng.integers(1, height_px + 1), x : x + rng.integers(1, width_px + 1)] = number % 7
        if quality.masked_fraction(rgb) == 0.0:
            continue
        # Judged on every pixel: no side is 128 or more. Walked from the border by hand.
        flat = (np.abs(rgb.astype(int) - number % 7) <= 3).all(axis=2)
        seen = np.zeros_like(flat)
        on_border = [(y, x) for y, x in np.ndindex(*flat.shape) if y in (0, height_px - 1) or x in (0, width_px - 1)]
        waiting = [place for place in on_border if flat[place]]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < height_px and 0 <= x < width_px and flat[y, x] and not seen[y, x]:
                seen[y, x] = True
                waiting += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        assert quality.masked_fraction(rgb) == seen.mean()
        shares.add(round(float(seen.mean()), 3))
    assert len(shares) > 100
